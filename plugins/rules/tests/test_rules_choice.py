"""Which rule decides, which model it gives, and why the others do not."""

import base64
from datetime import UTC, datetime

import pytest
from rules_kit import asked, chosen, plugin_of, rule_of

from gwcore.call import Principal
from gwcore.errors import BadConfig, BadRequest, Forbidden, UnknownModel
from gwcore_providers import gwcore_dialects
from gwcore_rules.choose import CostCapExceeded, dollars

# twenty tasks of a research assistant, in the order of its rules
RULES = """
- {name: vision, when: {vision: true, models: [auto, "auto/*"]}, model: vision}
- {name: code, when: {task: ["code*", refactoring, unit_tests]}, model: code, sampling: {temperature: 0}}
- {name: papers, when: {task: [research_paper_summary, literature_review, peer_review]}, model: large,
   sampling: {temperature: 0.2, max_tokens: 2000}}
- {name: short, when: {task: [title, keywords, "*_classification", language_detection]}, model: small,
   sampling: {max_tokens: 50}}
- {name: creative, when: {task: [poem, slogan, brainstorming]}, model: middle, sampling: {temperature: 1.2, top_p: 0.95}}
- {name: tools, when: {tools: true, models: [auto, "auto/*"]}, model: middle}
- {name: long, when: {models: [auto, "auto/*"], input_tokens: {over: 1000}}, model: large}
- {name: rest, when: {models: [auto, "auto/*"], task: [chat, translation, email, faq, ""]}, model: small}
"""
TABLE = [
    ("code_generation", "code", "code"),
    ("code_review", "code", "code"),
    ("refactoring", "code", "code"),
    ("unit_tests", "code", "code"),
    ("research_paper_summary", "papers", "large"),
    ("literature_review", "papers", "large"),
    ("peer_review", "papers", "large"),
    ("title", "short", "small"),
    ("keywords", "short", "small"),
    ("sentiment_classification", "short", "small"),
    ("topic_classification", "short", "small"),
    ("intent_classification", "short", "small"),
    ("language_detection", "short", "small"),
    ("poem", "creative", "middle"),
    ("slogan", "creative", "middle"),
    ("brainstorming", "creative", "middle"),
    ("chat", "rest", "small"),
    ("translation", "rest", "small"),
    ("email", "rest", "small"),
    ("faq", "rest", "small"),
]
HOW = {
    "name": lambda task: asked(model=f"auto/{task}"),
    "header": lambda task: asked(headers={"x-gwcore-task": task}),
    "metadata": lambda task: asked(metadata={"task_type": task}),
}
IMAGE = "data:image/png;base64," + base64.b64encode(bytes(600)).decode()


@pytest.fixture(scope="module")
def plugin():
    return plugin_of(RULES)


def test_there_are_twenty_tasks():
    assert len({task for task, _, _ in TABLE}) == 20


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize(("task", "rule", "model"), TABLE)
def test_twenty_tasks(plugin, task, rule, model, how):
    made = chosen(plugin, HOW[how](task))
    assert (rule_of(made), made.model) == (rule, model)


def test_a_task_that_no_rule_knows_is_refused_and_a_named_model_is_not(plugin):
    with pytest.raises(UnknownModel, match="juggling"):
        chosen(plugin, asked(model="auto/juggling"))
    made = chosen(plugin, asked(model="middle", headers={"x-gwcore-task": "juggling"}))
    assert (made.model, rule_of(made), made.edited) == ("middle", "", False)


def test_what_the_request_is_decides_where_no_task_is_named(plugin):
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert rule_of(chosen(plugin, asked(tools=tools))) == "tools"
    assert rule_of(chosen(plugin, asked("word " * 2000))) == "long"
    content = [{"type": "image_url", "image_url": {"url": IMAGE}}]
    assert rule_of(chosen(plugin, asked(messages=[{"role": "user", "content": content}]))) == "vision"


SHOWN = {"type": "image_url", "image_url": {"url": IMAGE}}
SOURCE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


@pytest.mark.parametrize(
    ("dialect", "message", "rule"),
    [
        ("openai.chat", {"role": "user", "content": [SHOWN]}, "vision"),
        ("openai.chat", {"role": "user", "content": 'what is {"type": "image_url"} for?'}, "rest"),
        (
            "anthropic.messages",
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [SOURCE]}]},
            "vision",
        ),
        # of an odd shape: not for the rules to judge, and no fault of the gateway
        ("openai.chat", {"role": ["user"], "content": [SHOWN]}, "vision"),
        ("anthropic.messages", {"role": ["user"], "content": [SOURCE]}, "vision"),
    ],
)
def test_an_image_is_one_of_the_conversation_not_a_word_in_it(plugin, dialect, message, rule):
    made = asked(messages=[message])
    made.dialect = next(known for known in gwcore_dialects() if known.name == dialect)
    assert rule_of(chosen(plugin, made)) == rule


def test_the_header_is_asked_before_the_body_and_the_body_before_the_name(plugin):
    made = asked(model="auto/poem", metadata={"task_type": "title"}, headers={"x-gwcore-task": "code_x"})
    assert rule_of(chosen(plugin, made)) == "code"
    assert rule_of(chosen(plugin, asked(model="auto/poem", metadata={"task_type": "title"}))) == "short"


def test_what_is_said_to_us_alone_is_taken_out_of_the_body(plugin):
    made = chosen(plugin, asked(metadata={"task_type": "faq", "max_cost_usd": 1, "user_id": "u"}))
    assert made.document["metadata"] == {"user_id": "u"} and made.edited
    assert "metadata" not in chosen(plugin, asked(metadata={"task_type": "faq"})).document
    for bad in ({"task_type": 7}, {"task_type": "x" * 201}, {"max_cost_usd": "much"}):
        with pytest.raises(BadRequest):
            chosen(plugin, asked(metadata=bad))


def test_the_client_s_own_settings_are_kept(plugin):
    made = chosen(plugin, asked(model="auto/title", max_completion_tokens=9, temperature=1))
    assert "max_tokens" not in made.document and made.document["max_completion_tokens"] == 9
    made = chosen(plugin, asked(model="auto/poem", temperature=0))
    assert made.document["temperature"] == 0 and made.document["settings"] == {"top_p": 0.95}
    made = chosen(plugin, asked(model="auto/poem", temperature=None))
    assert made.document["temperature"] == 1.2


# ── each condition ───────────────────────────────────────────────────────────────────────────────────────────────────

KEY = Principal("k1", alias="ci", team="t1", user="u1", organisation="o1")
CONDITIONS = [
    ("{models: [gpt-*]}", {"model": "gpt-4"}, {"model": "small"}, "model is small, not gpt-*"),
    ("{operations: embeddings}", {"operation": "embeddings"}, {}, "operation is chat, not embeddings"),
    (
        "{input_tokens: {over: 100, up_to: 500}}",
        {"text": "w " * 400},
        {},
        "tokens of input, not over 100 and up to 500",
    ),
    ("{tools: true}", {"tools": [{"name": "f"}]}, {"tools": []}, "it has no tools"),
    ("{tools: false}", {}, {"functions": [{"name": "f"}]}, "it has tools"),
    ("{stream: true}", {"stream": True}, {}, "it has no stream"),
    ("{tags: [eu, us]}", {"tags": ["eu"]}, {"tags": ["ap"]}, "tags is ap, not eu, us"),
    ("{keys: ci}", {"principal": KEY}, {"principal": Principal("k2")}, "key is k2, not ci"),
    ("{keys: k1}", {"principal": KEY}, {}, "key is not said, not k1"),
    ("{teams: t*}", {"principal": KEY}, {"principal": Principal("k")}, "team is not said, not t*"),
    ("{users: u1}", {"principal": KEY}, {}, "user is not said"),
    ("{organisations: o1}", {"principal": KEY}, {}, "organisation is not said"),
    ("{task: a, tags: x}", {"tags": "x", "headers": {"x-gwcore-task": "a"}}, {"tags": "x"}, "task is not said, not a"),
]


@pytest.mark.parametrize(("when", "fits", "differs", "why"), CONDITIONS, ids=[one[0] for one in CONDITIONS])
def test_conditions(when, fits, differs, why):
    plugin = plugin_of(f"- {{name: r, when: {when}, model: large}}")
    base = {"model": "small"}
    assert chosen(plugin, asked(**{**base, **fits})).model == "large"
    other = asked(**{**base, **differs})
    assert why in plugin.explain(asked(**{**base, **differs}))
    assert chosen(plugin, other).model == "small"


@pytest.mark.parametrize(
    ("when", "inside", "outside"),
    [
        ('{hours: "08:00-18:00"}', ["2026-11-20T08:00", "2026-11-20T17:59"], ["2026-11-20T07:59", "2026-11-20T18:00"]),
        ('{hours: "22:00-06:00", days: [fri]}', ["2026-11-20T22:00", "2026-11-21T05:59"], ["2026-11-20T05:59", "2026-11-21T22:00"]),
        ("{days: [sat, sun]}", ["2026-11-21T00:00", "2026-11-22T23:59"], ["2026-11-20T23:59", "2026-11-23T00:00"]),
        ('{hours: ["06:00-07:00", "23:00-24:00"]}', ["2026-11-20T06:30", "2026-11-20T23:59"], ["2026-11-21T00:00"]),
    ],
)  # fmt: skip
def test_time_of_day(when, inside, outside):
    now = 0.0
    plugin = plugin_of(f"- {{name: r, when: {when}, model: large}}", clock=lambda: now)
    for moments, model in ((inside, "large"), (outside, "small")):
        for moment in moments:
            now = datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp()
            assert chosen(plugin, asked(model="small")).model == model, moment


# ── the cap ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def capped(over="cheapest", cheaper="[middle, small]", model="large", cost="$0.004"):
    rule = f"{{name: r, model: {model}, max_cost: {cost}, cheaper: {cheaper}, over: {over}, sampling: {{max_tokens: 800}}}}"
    return plugin_of(f"- {rule}")


def test_over_the_cap_the_first_cheaper_model_that_fits():
    plugin = capped()
    # 800 tokens of answer: 12, 4 and 0.32 thousandths of a dollar, and the input
    assert chosen(plugin, asked(max_tokens=100)).model == "large"
    assert chosen(plugin, asked(max_tokens=700)).model == "middle"
    assert chosen(plugin, asked()).model == "small"


def test_a_default_is_no_longer_than_the_model_can_answer():
    plugin = plugin_of("- {name: r, model: [tiny, small], sampling: {max_tokens: 5000}}")
    assert chosen(plugin, asked()).document["max_tokens"] == 4000
    assert chosen(plugin, asked(max_tokens=6000)).document["max_tokens"] == 6000  # the client's own affair


def test_where_none_fits_the_cheapest_or_none():
    assert chosen(capped(cost="$0.0001"), asked()).model == "small"
    with pytest.raises(CostCapExceeded, match=r"large about \$0.012\d+, middle .*, small "):
        chosen(capped(over="refuse", cost="$0.0001"), asked())
    # nothing but the operator's word says what is cheaper
    assert chosen(capped(cheaper="unpriced", cost="$0.0001"), asked()).model == "unpriced"


def test_what_has_no_price_keeps_no_cap():
    plugin = capped(cheaper="[unpriced, small]")
    assert chosen(plugin, asked()).model == "small"
    with pytest.raises(CostCapExceeded, match="unpriced"):
        chosen(plugin_of("[]"), asked(model="unpriced", headers={"x-gwcore-max-cost-usd": "5"}))


def test_a_model_costs_what_its_dearest_target_does():
    assert chosen(capped(model="both"), asked(max_tokens=700)).model == "middle"


def test_the_client_s_own_cap_is_firm():
    header = {"x-gwcore-max-cost-usd": "0.0001"}
    with pytest.raises(CostCapExceeded):
        chosen(capped(cost="$0.00005"), asked(headers=header))  # the rule would take the cheapest
    assert (
        chosen(capped(cost="$1"), asked(headers={"x-gwcore-max-cost-usd": "0.004"}, max_tokens=700)).model == "middle"
    )
    plain = plugin_of("[]")
    assert chosen(plain, asked(model="small", headers=header, max_tokens=10)).model == "small"
    with pytest.raises(CostCapExceeded):
        chosen(plain, asked(model="large", headers=header))


def test_a_model_without_room_for_the_input_is_passed_over():
    long = asked("word " * 20_000)  # about 28,600 tokens; tiny has a window of 8,000
    plugin = plugin_of("- {name: r, model: large, max_cost: $0.02, cheaper: [tiny, small]}")
    assert chosen(plugin, asked("word " * 2000, max_tokens=2000)).model == "tiny"
    assert chosen(plugin, long).model == "small"
    assert (
        "tiny  about $0.00016" in (told := plugin.explain(asked("word " * 20_000))) and "no room in its window" in told
    )
    several = plugin_of("- {name: r, model: [tiny, middle]}")
    assert chosen(several, asked("word " * 20_000)).model == "middle"
    assert chosen(several, asked()).model == "tiny"
    # where nothing has room the vendor decides
    assert chosen(plugin_of("- {name: r, model: tiny}"), asked("word " * 20_000)).model == "tiny"
    assert chosen(plugin_of("- {name: r, model: [tiny, tiny]}"), asked("word " * 20_000)).model == "tiny"


def test_images_and_sounds_are_not_charged_by_tokens_alone():
    with pytest.raises(CostCapExceeded, match="image_generation is not charged by tokens alone"):
        chosen(plugin_of("[]"), asked(model="small", operation="image_generation", metadata={"max_cost_usd": 1}))


def test_what_calls_used_teaches_the_estimate():
    plugin = capped()
    assert chosen(plugin, asked(max_tokens=700)).model == "middle"
    for _ in range(200):
        plugin.estimator.learn("large", None, (100, 0), (25, 20))
    assert chosen(plugin, asked(max_tokens=700)).model == "large"  # its answers are short


@pytest.mark.parametrize(
    ("nano", "told"), [(0, "$0.000000"), (1, "$0.000000001"), (50_000_000, "$0.050000"), (3_000_000_120, "$3.00000012")]
)
def test_dollars_are_exact(nano, told):
    assert dollars(nano) == told


# ── what a caller may use ────────────────────────────────────────────────────────────────────────────────────────────


def test_of_several_models_the_first_that_the_caller_may_use():
    plugin = plugin_of(
        "- {name: r, model: [large, middle], max_cost: $0.004, cheaper: [small, unpriced], over: cheapest}"
    )
    allowed = set()
    plugin.chooser.permits = lambda _call, model: model in allowed
    with pytest.raises(Forbidden):
        chosen(plugin, asked())
    allowed.add("middle")
    assert chosen(plugin, asked(max_tokens=10)).model == "middle"
    assert chosen(plugin, asked()).model == "middle"  # nothing cheaper may be used
    allowed.add("small")
    assert chosen(plugin, asked()).model == "small"


# ── what is wrong with rules ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("- {name: r, model: smal}", "rules.0.model.0 no model named 'smal'; did you mean small?"),
        ("- {name: r, model: large, max_cost: $1, cheaper: lare}", "rules.0.cheaper.0"),
        ("- {name: r, when: {dialects: openai.chta}}", "openai.chta is not known; did you mean openai.chat"),
        ("- {name: r, when: {operations: [chat, caht]}}", "rules.0.when.operations.1"),
        ("- {name: r, model: small, cheaper: small}", "max_cost, which is not set"),
        ("- {name: r, model: small, max_cost: $1}", "max_cost changes nothing"),
        ("- {name: r}\n- {name: r}", "share a name: r"),
        ('- {name: r, when: {hours: "8-18"}}', "not a span of time"),
        ("- {name: r, when: {input_tokens: {over: 5, up_to: 5}}}", "is an empty range"),
        ("- {name: r, sampling: {temperature: 3}}", "less than or equal to 2"),
    ],
)
def test_bad_rules_are_told_at_assembly(rules, said):
    with pytest.raises(BadConfig) as told:
        plugin_of(rules)
    assert said in told.value.message


# ── explain ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_explain_tells_of_every_rule_and_candidate():
    plugin = plugin_of(
        """
        - {name: one, when: {task: a, tools: true}, model: large}
        - {name: two, when: {task: b}, model: large, max_cost: $0.001, cheaper: [middle, small]}
        - {name: three, model: small}
        """
    )
    made = asked(model="auto/b")
    told = plugin.explain(made)
    assert made.model == "small"
    assert "one: no, task is b, not a; it has no tools" in told
    assert "two: decides" in told and "three: not asked" in told
    for model in ("large", "middle"):
        assert f"{model}  about $0.0" in told and "not chosen: over the cap" in told
    assert "small  about $0.000" in told and "chosen" in told
    assert "sampling: it names no model" in plugin_of("- {name: sampling, sampling: {seed: 1}}").explain(
        asked()
    ).replace("no, ", "")
