"""``gwcore explain``: candidates, scores, exclusions with reasons, the order, the price of each; offline."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from gwcore.assemble import assemble
from gwcore.catalog import Catalog
from gwcore.resources import Resources
from gwcore_fallback.session import session_of

GWCORE = Path(sys.executable).with_name("gwcore")
STACK = """
gwcore: 1
upstreams:
  dear:  {provider: openai-compatible, base_url: "http://127.0.0.1:1/v1", prices: {m: {input: $10/M, output: $20/M}}}
  cheap: {provider: openai-compatible, base_url: "http://127.0.0.1:2/v1", prices: {m: {input: $1/M, output: $2/M}}}
  local: {provider: openai-compatible, base_url: "http://127.0.0.1:1/v1"}
  eu:    {provider: openai-compatible, base_url: "http://127.0.0.1:1/v1", prices: {m: {input: $1/M, output: $1/M}}}
  long:  {provider: anthropic, base_url: "http://127.0.0.1:1", prices: {n: {input: $3/M, output: $3/M}}}
models:
  m: [dear/m, cheap/m, local/m, eu/m]
  big: [long/n]
stack:
  - fallback:
      strategy: cheapest
      deadline: 20s
      context_window_fallbacks: [big]
      deployments: {eu/m: {tags: [eu]}, cheap/m: {weight: 3, requests: 60/min}}
"""


def explain(tmp_path, *options, stack=STACK, **more):
    (tmp_path / "stack.yaml").write_text(stack)
    request = {"model": "m", "max_tokens": 1000, "messages": [{"role": "user", "content": "hi" * 200}], **more}
    (tmp_path / "request.json").write_text(json.dumps(request))
    command = [GWCORE, "explain", tmp_path / "stack.yaml", "-r", tmp_path / "request.json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return [line.strip() for line in done.stdout.splitlines()]


def test_order_prices_and_exclusions(tmp_path):
    lines = explain(tmp_path)
    found = {line.split()[0]: line for line in lines if line[:1].isdigit() or line.startswith("-  ")}
    assert found["1."].startswith("1. cheap/m  about $0.00") and "weight 3  used 0%" in found["1."]
    assert found["2."].startswith("2. dear/m  about $0.01") and found["3."].startswith("3. local/m  unpriced")
    assert (
        found["-"].startswith("-  eu/m  about $") and "tags eu" in found["-"] and found["-"].endswith("excluded: tags")
    )
    assert any(line.startswith("when the request is too long: big (long/n  about $") for line in lines)
    assert "at most 4 attempts in 20 s" in lines
    assert "POST http://127.0.0.1:2/v1/chat/completions" in lines and lines[-1] == "nothing was sent"


UPSTREAMS = "\n".join(
    f'  {name}: {{provider: openai-compatible, base_url: "http://127.0.0.1:1/v1", prices: {{m: {{input: ${price}/M, output: $1/M}}}}}}'
    for name, price in (("a", 3), ("b", 2), ("c", 1))
)
TOLD = f"""
gwcore: 1
upstreams:
{UPSTREAMS}
models: {{m: [a/m, b/m, c/m], n: [a/m, b/m, c/m], eu: [c/m]}}
stack:
  - fallback:
      fallbacks: [n]
      affinity: session
      models:
        n: {{strategy: cheapest, fallbacks: []}}
        eu: {{fallbacks: [n]}}
      deployments: {{c/m: {{tags: [eu]}}}}
"""


def order(lines):
    return [line.split()[1] for line in lines if line[:1].isdigit() and line[1:3] == ". "]


def test_sessions_have_the_order_that_they_are_served_in(tmp_path):
    stack = TOLD.replace("      deployments: {c/m: {tags: [eu]}}\n", "")
    chooser = next(
        p.plugin for p in assemble(stack, Catalog(), Resources(), os.environ).placed if p.name == "fallback"
    ).chooser
    orders = set()
    for name in "stuvw":
        lines = explain(tmp_path, "-H", f"x-gwcore-session-id: {name}", stack=stack)
        members = chooser.fleet.group("m", chooser.routes._models.means("m")).members
        call = SimpleNamespace(session=name.encode(), document={}, principal=None)
        session = session_of(call, "session")
        served = chooser.planner.order("ordered", None, members, call=call, now=0.0, session=session)
        assert order(lines) == [one.id for one in served]
        assert any("by session" in line for line in lines)
        orders.add(tuple(order(lines)))
    assert len(orders) > 1
    assert order(explain(tmp_path, stack=stack)) == ["a/m", "b/m", "c/m"]


def test_models_that_come_after_are_told_in_their_own_order(tmp_path):
    lines = explain(tmp_path, stack=TOLD.replace("{c/m: {tags: [eu]}}", "{}"))
    after = next(line for line in lines if line.startswith("when none of these answers: n "))
    assert after.index("c/m") < after.index("b/m") < after.index("a/m")


def test_where_no_target_has_the_tags_the_next_model_is_what_is_sent(tmp_path):
    lines = explain(tmp_path, stack=TOLD, model="eu")
    assert any(line.startswith("-  c/m") and line.endswith("excluded: tags") for line in lines)
    assert any(line.startswith("when none of these answers: n (b/m") and "c/m" not in line for line in lines)
