"""docs/guide/keys.md does what it says."""

import asyncio
import os
import re
import shutil
import textwrap
from pathlib import Path

import pytest
from auth_world import ADMIN, CHAT, serving

from gwcore.assemble import assemble
from gwcore.gateway import Gateway
from gwcore.testing.upstream import Answer
from gwcore_auth.admin.bodies import NewKey, UpdateKey

GUIDE = Path(__file__).parents[3] / "docs/guide/keys.md"
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks(kind):
    return [text for what, text in BLOCK.findall(GUIDE.read_text(encoding="utf-8")) if what == kind]


@pytest.mark.parametrize("text", blocks("yaml"))
def test_stack_files_of_the_guide_assemble(text, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    env = {"GWCORE_ADMIN_KEY": ADMIN, "OPENAI_API_KEY": "sk-x", "CI_KEY": "k" * 3 + ADMIN[::-1]}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    if not text.startswith("gwcore:"):
        text = f"gwcore: 1\nstores: {{book: 'memory:'}}\nupstreams: {{d: {{provider: demo}}}}\n{text}"
    gateway = Gateway(text)
    assert assemble(text, gateway.catalog, gateway.resources, env).admin is not None


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_the_script_of_the_guide_runs_with_curl(upstream, sqlite_url):
    """A script as LiteLLM's users have it, unchanged: made, called, updated, blocked."""
    script = next(text for text in blocks("sh") if "/team/new" in text)
    first, _, rest = script.partition("admin /key/update")
    upstream.default = Answer(body=CHAT)
    stack = blocks("yaml")[0].replace("sqlite:///gwcore.db", sqlite_url)
    stack = stack.replace("{provider: openai, api", f"{{provider: openai, base_url: '{upstream.url}/v1', api")
    stack = stack.replace("${OPENAI_API_KEY}", "sk-up").replace("${GWCORE_ADMIN_KEY}", ADMIN)
    async with serving(stack) as api:
        text = f"set -e\n{first}\necho; echo $KEY > key; admin /key/update{rest}".replace(
            "http://127.0.0.1:4000", api.url
        )
        folder = Path(sqlite_url.removeprefix("sqlite:///")).parent
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", textwrap.dedent(text), cwd=folder, stdout=pipe, stderr=pipe,
            env={**os.environ, "GWCORE_ADMIN_KEY": ADMIN, "no_proxy": "*"},
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        answers = out.decode()
        assert '"content":"hi"' in answers and '"error"' not in answers, answers
        key = (folder / "key").read_text().strip()
        assert (await api.chat(key, "fast")).status_code == 401
        info = (await api.get(f"/key/info?key={key}"))["info"]
        assert (info["models"], info["rpm_limit"], info["key_alias"], info["blocked"]) == (
            ["fast", "deep"],
            600,
            "ci",
            True,
        )
        assert (await api.get("/team/info?team_id=research"))["team_info"]["max_budget"] == 100.0
    assert len(upstream.requests) == 1 and upstream.requests[0].document["model"] == "gpt-5.4-mini"


def test_fields_of_the_guide_are_fields_of_the_api():
    table = GUIDE.read_text(encoding="utf-8").split("## What a key may")[1].split("##")[0]
    named = {name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert named and named <= set(NewKey.model_fields) | set(UpdateKey.model_fields)
