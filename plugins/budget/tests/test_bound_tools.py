"""What a vendor's own tools may cost and read is held, or there is no bound. The numbers are those of recorded exchanges."""

import orjson
import pytest

from gwcore.call import Attempt
from gwcore.prices import FREE, PriceCard
from gwcore.testing import fakes
from gwcore_budget import references
from gwcore_budget.bound import IMAGE, bound
from gwcore_budget.tools import SEARCHED, Runs, runs

WINDOW = 200_000
PRICES = {"input": 1, "output": 1, "web_search": 10_000}


def card(window=WINDOW, tiers=None, **prices):
    made = {name: ((0, price * 10**9),) for name, price in (PRICES | prices).items()}
    return PriceCard("m", made, tiers or {}, context_window=window, max_output=64_000)


def of(prices=None, *, text="hi", header=None, **fields):
    made = fakes.call(text, **{"max_tokens": 1, **fields})
    if header is not None:
        made.headers = [*made.headers, header]
    return bound(Attempt(made, made.targets[0]), prices or card(), 1_000)


def read(found):
    """Tokens of input, fees left out."""
    return found.fixed // 10**9


SEARCH = {"type": "web_search_20250305", "name": "web_search"}


def test_what_searches_bring_is_held_with_every_round_that_reads_it():
    """Ten searches of a request of 1,430 bytes read 401,468 tokens; one of 311 bytes read 17,407."""
    assert read(of(tools=[{**SEARCH, "max_uses": 10}])) - 10 * 10_000 > 401_468
    assert read(of(tools=[{"type": "web_search"}], max_tool_calls=1)) - 10_000 > 17_407
    assert read(of(web_search_options={})) - 10_000 > 17_407


def test_what_fetches_or_browses_may_fill_the_window_in_each_round():
    """116,506 tokens were read for a request of 302 bytes."""
    fetch = {"type": "web_fetch_20250910", "name": "web_fetch"}
    assert read(of(tools=[{**fetch, "max_uses": 2}])) == 3 * WINDOW
    assert read(of(tools=[{"type": "mcp", "server_url": "https://x.y"}], max_tool_calls=1)) == 2 * WINDOW
    assert read(of(tools=[{"urlContext": {}}])) == read(of(tools=[{"file_search": {}}])) == WINDOW
    searched = read(of(tools=[{"urlContext": {}}, {**SEARCH, "max_uses": 2}]))
    assert searched - 2 * 10_000 == 3 * WINDOW, "what was read before the first search is read again after each"


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "web_fetch_20250910", "name": "web_fetch"}]},
        {"tools": [{"type": "mcp", "server_url": "https://x.y"}]},
        {"tools": [{"type": "browser_search"}]},
        {"tools": [{"type": "openrouter:web_search"}]},
        {"tools": [{"type": "image_generation"}], "max_tool_calls": 1},
        {"tools": [{"type": "advisor_20260301", "name": "advisor", "max_uses": 1}]},
        {"tools": [{"type": "shell", "environment": {"type": "container_auto"}}]},
        {"tools": [{"googleMaps": {}}]},
        {"tools": [{"type": ["function"]}]},
        {"tools": [{"type": {"a": 1}, "name": "f"}]},
        {"tools": [{**SEARCH, "max_uses": "3"}]},
        {"mcp_servers": [{"type": "url", "url": "https://x.y"}]},
        {"plugins": [{"id": "web"}]},
        {"models": ["dearer"]},
        {"providerOptions": {"gateway": {"models": ["dearer"]}}},
        {"fallbacks": [{"model": "dearer"}]},
        {"search_parameters": {"mode": "on"}},
        {"model": "openai/gpt-5:online"},
        {"service_tier": "priority"},
        {"speed": "fast"},
    ],
)
def test_what_nothing_bounds_has_no_bound_and_costs_nothing_where_nothing_costs(fields):
    assert of(**fields) is None
    made = fakes.call("hi", **fields)
    assert bound(Attempt(made, made.targets[0]), card(), 1_000, endless=True).amount > 0
    if "tools" in fields:
        assert of(PriceCard("m", FREE), **fields).amount == 0


@pytest.mark.parametrize("most", [-1, -(10**9), 0, True, 2.5, [3]])
def test_a_number_of_uses_that_is_none_lowers_no_hold(most):
    """Of a call with minus a million searches, one nano-dollar was held, however long its answer."""
    assert of(tools=[{**SEARCH, "max_uses": most}]) is None
    assert of(tools=[SEARCH], max_tool_calls=most) is None


@pytest.mark.parametrize(
    "tool",
    [
        {"name": "f", "input_schema": {}}, {"type": "function", "function": {"name": "web_search"}}, {"type": "custom", "name": "x"},
        {"function": {"name": "f"}}, {"functionDeclarations": [{"name": "f"}]}, {"type": "bash_20250124", "name": "bash"},
        {"type": "computer_20251124", "name": "computer"}, {"type": "local_shell"}, {"type": "shell"}, {"type": "apply_patch"},
        {"type": "shell", "environment": {"type": "local"}}, {"type": "memory_20250818", "name": "memory"},
        {"type": "tool_search_tool_bm25_20251119", "name": "s"}, {"type": "namespace", "name": "n", "tools": []}, "no tool",
    ],
)  # fmt: skip
def test_the_clients_own_tools_read_nothing_but_the_request(tool):
    assert read(of(tools=[tool])) < 3_000


def test_a_tier_with_prices_and_one_that_is_none_are_bounded():
    fast = {"priority": {"input": ((0, 2 * 10**9),)}}
    assert of(card(tiers=fast), service_tier="priority") is not None
    assert of(service_tier="flex") is not None
    assert of(service_tier={"priority": 1}) is not None


def test_a_model_that_reads_up_on_its_own_has_no_bound():
    """Deep research is billed by what it cites, thinks and searches, whatever max_tokens says."""
    assert of(card(citation=2)) is None
    assert of(PriceCard("m", FREE)).amount == 0


@pytest.mark.parametrize(
    "part",
    [
        {"inline_data": {"mime_type": "video/mp4", "data": "AAAA"}}, {"inlineData": {"mimeType": "video/mp4", "data": "AAAA"}},
        {"type": "document_url", "document_url": "https://x.y"}, {"type": "audio_url", "audio_url": {"url": "https://x.y"}},
        {"type": "input_file", "file_id": "f"}, {"type": "file", "file": {"file_id": "f"}}, {"fileData": {"fileUri": "x"}},
        {"file_data": {"file_uri": "x"}}, {"type": "document", "source": {"type": "url", "url": "https://x.y"}},
    ],
)  # fmt: skip
def test_what_stands_for_more_than_its_bytes_is_a_whole_window(part):
    assert read(of(messages=[{"role": "user", "content": [part]}])) == WINDOW


def test_items_that_the_vendor_keeps_are_a_whole_window():
    assert read(of(input=[{"type": "item_reference", "id": "msg_1"}])) == WINDOW


def test_a_tools_parameter_that_is_a_path_is_no_file():
    """Claude Code's tools have one; a whole window was held for each of its requests."""
    schema = {"type": "object", "properties": {"file_path": {"type": "string"}, "files": {"type": "array"}}}
    assert read(of(tools=[{"name": "Read", "input_schema": schema}])) < 3_000


NAMES = ("file_id", "document", "image", "video", "file", "audio_url")
SCHEMA = {"type": "object", "properties": {name: {"type": "string"} for name in NAMES}, "required": [*NAMES]}
GIVEN = dict.fromkeys(NAMES, "x")
OWN = {
    "chat": {"tools": [{"type": "function", "function": {"name": "document", "parameters": SCHEMA}}]},
    "chat, of old": {"functions": [{"name": "f", "parameters": SCHEMA}]},
    "responses": {"tools": [{"type": "function", "name": "f", "parameters": SCHEMA}]},
    "namespace": {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}]}]},
    "messages": {"tools": [{"name": "f", "input_schema": SCHEMA}]},
    "gemini": {"tools": [{"functionDeclarations": [{"name": "f", "parameters": SCHEMA}]}]},
    "answer": {"response_format": {"type": "json_schema", "json_schema": {"name": "document", "schema": SCHEMA}}},
    "answer of responses": {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
    "answer of messages": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    "answer of gemini": {"generationConfig": {"responseSchema": SCHEMA}},
    "called in messages": {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": GIVEN}]}]},
    "called in chat": {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": GIVEN}}]}]},
    "called in gemini": {"contents": [{"parts": [{"functionCall": {"args": GIVEN}}, {"function_response": {"response": GIVEN}}]}]},
    "text": {"messages": [{"role": "user", "content": '{"file_id": 1, "document": 2, "image": 3, "video": 4}'}]},
}  # fmt: skip
"""A client's own words for what its tools take, and where they stand."""
FILE = {"type": "file", "file": {"file_id": "f"}}
PICTURE = {"type": "image_url", "image_url": {"url": "https://x.y"}}


def held(fields, hidden=b""):
    """Tokens held for a request with these fields. ``hidden``: members before them in the bytes, not in the document."""
    made = fakes.call("hi", max_tokens=1)
    made.document |= fields
    made.raw = b"{" + hidden + orjson.dumps(made.document)[1:]
    return read(bound(Attempt(made, made.targets[0]), card(), 1_000))


@pytest.mark.parametrize("fields", OWN.values(), ids=OWN)
def test_a_tools_parameter_that_is_called_a_file_or_a_picture_is_none(fields):
    """Open WebUI's own tools take a ``file_id``; a whole window was held for each of its chats."""
    assert held(fields) < 3_500


@pytest.mark.parametrize("fields", OWN.values(), ids=OWN)
def test_beside_such_a_tool_a_file_is_a_file_and_a_picture_a_picture(fields):
    said = fields.get("messages", [{"role": "user", "content": "hi"}])
    file, picture = ([*said, {"role": "user", "content": [part]}] for part in (FILE, PICTURE))
    assert held({**fields, "messages": file}) == WINDOW
    assert held({**fields, "messages": picture}) - held(fields) in range(2 * IMAGE, 2 * IMAGE + 200)


@pytest.mark.parametrize("fields", OWN.values(), ids=OWN)
def test_a_file_that_hides_behind_a_name_that_is_there_twice_is_one_all_the_same(fields):
    hidden = b'"messages": [{"content": [{"type": "file", "file": {"file_id": "f"}}]}], '
    assert held(fields, hidden) == WINDOW


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}, "file_ids": ["f"]}]},
        {"tools": [{"type": "web_search", "max_uses": 1, "parameters": {"file_id": "f"}}]},
        {"tools": [{"type": "namespace", "file_id": "f", "tools": [{"type": "file_search", "parameters": {"file_id": "f"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "document"}]}]}]},
        {"messages": [{"role": "user", "content": [{"type": "server_tool_use", "input": {"file_id": "f"}}]}]},
        {"contents": [{"parts": [{"functionResponse": {"response": {}, "parts": [{"inlineData": {}}]}}]}]},
        {"text": {"file_id": "f"}, "generationConfig": {"file_id": "f"}},
        {"text": ["file_id"], "messages": "file_id", "contents": [{"parts": "file_id"}]},
    ],
)  # fmt: skip
def test_elsewhere_the_same_words_are_a_file(fields):
    assert held(fields) >= WINDOW


def test_negative_control_whoever_believes_every_member_of_the_document(monkeypatch):
    monkeypatch.setattr(references, "_own_text", lambda document: references.orjson.dumps(document).decode())
    with pytest.raises(AssertionError):
        test_beside_such_a_tool_a_file_is_a_file_and_a_picture_a_picture(OWN["chat"])


def test_negative_control_whoever_asks_only_whether_the_clients_tools_say_it(monkeypatch):
    monkeypatch.setattr(references, "_references", lambda text: '"file' in text)
    with pytest.raises(AssertionError):
        test_a_file_that_hides_behind_a_name_that_is_there_twice_is_one_all_the_same(OWN["chat"])


def test_a_window_that_is_not_the_longest_bounds_nothing():
    """The catalogue has 200,000 for a model whose price changes above 200,000: there is a longer window, for who asks."""
    prices = {"input": ((0, 3 * 10**9), (WINDOW, 6 * 10**9)), "output": ((0, 10**9),)}
    long = PriceCard("m", prices, context_window=WINDOW, max_output=64_000)
    assert of(long, text="x" * 500_000).fixed > 500_000 * 6 * 10**9
    assert of(long, previous_response_id="r").fixed == WINDOW * 3 * 10**9
    beta = (b"anthropic-beta", b"a,context-1m-2025-08-07")
    assert of(long, previous_response_id="r", header=beta).fixed == 1_000_000 * 6 * 10**9
    catalogue = PriceCard("m", dict(card().prices), source="genai-prices", context_window=1_000_000, max_output=1)
    assert read(of(catalogue, text="x" * 2_000_000)) > 1_048_576
    assert read(of(card(), text="x" * 2_000_000)) == WINDOW


def test_words_that_were_foretold_are_paid_beside_the_answer():
    foretold = {"type": "content", "content": "x" * 10_000}
    once = of(prediction=foretold).amount - of().amount
    assert once >= 2 * 10_000 * 1_000
    assert of(prediction=foretold, n=2).amount - of(n=2).amount > 1.4 * once  # beside each


def test_a_summary_of_everything_comes_before_the_answer():
    edits = {"edits": [{"type": "compact_20260112"}]}
    plain, twice = of(text="x" * 10_000), of(text="x" * 10_000, context_management=edits)
    assert read(twice) > 2 * read(plain)
    assert twice.per_token == 2 * plain.per_token


def test_the_rounds_add_up():
    for window in (None, 10_000, 60_000, 90_000, WINDOW):
        for most in (1, 2, 5, 20):
            tokens = 9_000
            parts = [tokens + SEARCHED * n for n in range(most + 1)]
            wanted = sum(part if window is None else min(part, window) for part in parts)
            assert Runs(most=most).read(tokens, window) == wanted
    assert Runs(most=1, fill=True).read(5, None) is None
    assert runs({"tools": [{**SEARCH, "max_uses": 2}]}, card(), endless=False).fees == 2 * 10_000 * 10**9
