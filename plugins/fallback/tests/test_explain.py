"""``gwcore explain``: candidates, scores, exclusions with reasons, the order, the price of each; offline."""

import json
import subprocess
import sys
from pathlib import Path

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


def explain(tmp_path, *options):
    (tmp_path / "stack.yaml").write_text(STACK)
    request = {"model": "m", "max_tokens": 1000, "messages": [{"role": "user", "content": "hi" * 200}]}
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
