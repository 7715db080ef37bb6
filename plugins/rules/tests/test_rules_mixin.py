"""What agents use: the same choice in this process and of a gateway; the example that comes with it."""

import asyncio
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

import gwcore_rules
from gwcore.assemble import assemble
from gwcore.catalog import Catalog
from gwcore.gateway import Gateway
from gwcore.resources import Resources
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream
from gwcore_rules import LLMChoiceMixin, NoChoice
from tests.test_cli import Serving

EXAMPLE = Path(__file__).parents[3] / "examples/choosing"
KEYS = ["model", "temperature", "max_tokens", "estimated_cost_usd", "reason"]
QUESTIONS = [
    {"prompt": "Summarise this.", "task_type": "research_paper_summary"},
    {"prompt": "Summarise this. " * 5000, "task_type": "research_paper_summary", "max_cost_usd": 0.05},
    {"prompt": "Is it right?", "task_type": "code_review", "max_tokens": 77},
    {"prompt": "Good or bad?", "task_type": "topic_classification", "temperature": 0.5},
    {"messages": [{"role": "user", "content": "hi"}], "task_type": "code_żółć\n", "tags": ["batch"]},
    {"messages": [{"role": "user", "content": "hi"}], "metadata": {"task_type": "code_x"}},
    {"prompt": "hi"},
    {"prompt": "hi", "tools": [{"type": "function", "function": {"name": "f"}}]},
]


class Agent(LLMChoiceMixin):
    llm_rules = EXAMPLE / "stack.yaml"


def remote(url, key=None):
    agent = Agent()
    agent.llm_gateway, agent.llm_key = url, key
    return agent


def test_what_a_choice_has():
    choice = Agent().llm_choice(prompt="hi", task_type="research_paper_summary", max_cost_usd=0.05)
    assert list(choice) == KEYS
    assert (choice["model"], choice["temperature"], choice["max_tokens"]) == ("reader", 0.2, 1500)
    assert 0 < choice["estimated_cost_usd"] < 0.05 and "within the cap of $0.05" in choice["reason"]


async def test_a_gateway_and_this_process_say_the_same():
    async with running(Gateway(EXAMPLE / "stack.yaml")) as url:
        for base in (url, f"{url}/v1"):
            told = [await asyncio.to_thread(remote(base).llm_choice, **question) for question in QUESTIONS]
            assert told == [Agent().llm_choice(**question) for question in QUESTIONS]
        assert [one["model"] for one in told] == [
            "reader",
            "writer",
            "coder",
            "small",
            "coder",
            "coder",
            "writer",
            "coder",
        ]
        assert told[2]["max_tokens"] == 77 and told[3]["temperature"] == 0.5


async def test_no_choice_is_one_error_wherever_it_is_asked():
    question = {"prompt": "hi", "task_type": "code_review", "max_cost_usd": "0.000001"}
    async with running(Gateway(EXAMPLE / "stack.yaml")) as url:
        for agent in (Agent(), remote(url)):
            with pytest.raises(NoChoice, match=r"no model is estimated within \$0\.000001") as none:
                await asyncio.to_thread(agent.llm_choice, **question)
            assert none.value.code == "cost_cap_exceeded"
    async with FakeUpstream() as other:
        other.default = Answer(502, body=b"<html>")
        with pytest.raises(NoChoice, match="/estimate answered 502"):
            await asyncio.to_thread(remote(other.url).llm_choice, prompt="x")
        other.default = Answer(body=b'{"hello": 1}')
        with pytest.raises(NoChoice, match="answered 200, and no estimate"):
            await asyncio.to_thread(remote(other.url).llm_choice, prompt="x")
    with pytest.raises(TypeError):
        Agent().llm_choice(task_type="x")
    with pytest.raises(TypeError, match="llm_gateway"):
        LLMChoiceMixin().llm_choice(prompt="x")


async def test_a_gateway_chooses_what_the_key_may_use(tmp_path):
    key = secrets.token_hex(32)
    stack = (EXAMPLE / "stack.yaml").read_text().replace("file: rules.yaml", f"file: {EXAMPLE}/rules.yaml")
    auth = f"  - auth:\n      admin_key: {secrets.token_hex(32)}\n      keys: {{agent: {{secret: {key}, models: [auto, coder]}}}}\n"
    text = stack.replace("stack:\n", f"stores: {{book: 'memory:'}}\nstack:\n{auth}")
    async with running(Gateway(text)) as url:
        choice = await asyncio.to_thread(remote(url, key).llm_choice, prompt="x", task_type="code_review")
        assert choice["model"] == "coder"
        for agent, code in ((remote(url, key), "forbidden"), (remote(url), None), (remote(url, "wrong"), None)):
            with pytest.raises(NoChoice) as none:
                await asyncio.to_thread(agent.llm_choice, prompt="x", task_type="literature_review")
            assert code is None or none.value.code == code


def test_a_file_of_rules_alone_takes_models_as_provider_and_name(tmp_path):
    file = tmp_path / "rules.yaml"
    rule = "rules: [{{name: r, when: {{task: t}}, model: {}, max_cost: $1, cheaper: openai/gpt-4.1-nano}}]"
    file.write_text(rule.format("anthropic/claude-sonnet-4-5"))

    class Alone(LLMChoiceMixin):
        llm_rules = file

    choice = Alone().llm_choice(prompt="hi " * 1000, task_type="t")
    assert choice["model"] == "anthropic/claude-sonnet-4-5" and choice["estimated_cost_usd"] > 0
    later = file.stat().st_mtime_ns + 10**9
    for text, model in ((rule.format("groq/llama-3.1-8b-instant"), "groq/"), ("rules: [", "groq/")):
        file.write_text(text)
        later += 10**9
        os.utime(file, ns=(later, later))
        assert Alone().llm_choice(prompt="hi", task_type="t")["model"].startswith(model)
    other = tmp_path / "other.yaml"
    other.write_text("rules: [")
    Alone.llm_rules = other
    with pytest.raises(NoChoice, match=r"other\.yaml:1:9"):
        Alone().llm_choice(prompt="x", task_type="t")
    Alone.llm_rules = tmp_path / "none.yaml"
    with pytest.raises(NoChoice, match="No such file"):
        Alone().llm_choice(prompt="x", task_type="t")


def test_the_gateway_loads_no_client_for_it():
    code = "import sys, gwcore_rules; print('gwcore_rules.mixin' in sys.modules, gwcore_rules.LLMChoiceMixin.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "LLMChoiceMixin"]
    with pytest.raises(AttributeError):
        _ = gwcore_rules.nothing


GUIDE = Path(__file__).parents[3] / "docs/guide/rules.md"


def test_the_guide_s_rules_are_sound(tmp_path):
    """A file of rules, or a part of one, each with the stack of the example."""
    blocks = re.findall(r"```yaml rules\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    stack = (EXAMPLE / "stack.yaml").read_text()
    for text in blocks:
        (tmp_path / "stack.yaml").write_text(stack)
        (tmp_path / "rules.yaml").write_text(text if "rules:" in text else f"rules:\n{text}")
        assemble(tmp_path / "stack.yaml", Catalog(), Resources(), {})


def test_the_guide_s_agent_runs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    file = tmp_path / "agent.py"
    file.write_text(code.replace('"stack.yaml"', repr(str(EXAMPLE / "stack.yaml"))))
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(
        "{'model': 'reader', 'temperature': 0.2, 'max_tokens': 1500, 'estimated_cost_usd': 0.0"
    )


def test_the_example_agent_runs_alone_and_against_its_gateway():
    def told(*more):
        agent = [sys.executable, str(EXAMPLE / "agent.py"), *more]
        return subprocess.run(agent, capture_output=True, text=True, check=True).stdout

    alone = told()
    assert re.findall(r"^[^:]+: (\w+)", alone, re.MULTILINE) == ["reader", "writer", "not"]
    with Serving(EXAMPLE / "stack.yaml") as gateway:
        served = told("--gateway", gateway.url)
        assert served.splitlines()[0] == alone.splitlines()[0]  # later ones know how long answers are
        assert len([line for line in served.splitlines() if line.startswith("  ")]) == 2
        names = {one["id"] for one in gateway.get("/v1/models")["data"]}
    assert {"auto/research_paper_summary", "reader"} <= names
