"""A gateway to look at: ``python watch.py [--seconds 60] [--rate 20] [--check]``. See the README beside it."""

import argparse
import asyncio
import json
import os
import random
import re
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

import httpx2

import gwcore_observability.prometheus
from gwcore.gateway import Gateway
from gwcore.testing.server import running
from gwcore.testing.upstream import Answer, FakeUpstream, chat_stream

HERE = Path(__file__).parent
SHIPPED = Path(gwcore_observability.prometheus.__file__).parent
NOT_HERE = ("gwcore_cache_",)  # of plugins that the stack does not use
KEYS = ("ann", "bob")


def answer(seen):
    """What a model says, how long it takes, and now and then that it cannot."""
    document = seen.document
    chance = random.random()
    if seen.target.startswith("/first") and chance < 0.1:
        return Answer(503, body=b'{"error": {"message": "overloaded"}}')
    if chance > 0.99:
        return Answer(400, body=b'{"error": {"message": "bad request"}}')
    if document.get("stream"):
        words = [f"word{n} " for n in range(random.randint(5, 30))]
        return Answer(body=chat_stream(*words, usage=(random.randint(50, 150), len(words))), delay_first=0.05, gap=0.01)
    tokens = {"prompt_tokens": random.randint(50, 150), "completion_tokens": random.randint(5, 200)}
    tokens["prompt_tokens_details"] = {"cached_tokens": tokens["prompt_tokens"] // 3}
    message = {"role": "assistant", "content": "Hello!"}
    body = {
        "id": "c",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }
    return Answer(body=json.dumps({**body, "usage": tokens}).encode(), delay_head=random.uniform(0.02, 0.2))


def hear(seen):
    """The webhooks: records of calls are taken, alerts printed."""
    if seen.target == "/alerts":
        for alert in seen.document:
            print(f"alert ({alert['state']}): {alert['title']}", flush=True)
    return Answer(204)


async def load(url, keys, rate):
    """Calls at about this rate, for ever."""

    async def one(client):
        model = random.choices(["small", "large", "experiment"], [6, 3, 1])[0]
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "Hello? " * 100}],
            "stream": random.random() < 0.4,
        }
        headers = {"authorization": f"Bearer {random.choice(keys)}", "x-session-id": f"session-{random.randint(1, 5)}"}
        await client.post(f"{url}/v1/chat/completions", json={**body, "max_tokens": 200}, headers=headers)

    tasks = set()
    async with httpx2.AsyncClient(timeout=30) as client:
        try:
            while True:
                task = asyncio.create_task(one(client))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                await asyncio.sleep(random.expovariate(rate))
        finally:
            await asyncio.gather(*tasks, return_exceptions=True)


class Prometheus:
    """The real one, for a while."""

    def __init__(self, metrics, folder):
        self.port = random.randint(20000, 40000)
        self.folder = folder
        (folder / "prometheus.yml").write_text(
            f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{SHIPPED}/alerts.yaml']\n"
            f"scrape_configs: [{{job_name: gwcore, static_configs: [{{targets: ['{metrics}']}}]}}]\n"
        )

    async def __aenter__(self):
        self.process = await asyncio.create_subprocess_exec(
            "prometheus",
            f"--config.file={self.folder}/prometheus.yml",
            f"--storage.tsdb.path={self.folder}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
            stderr=asyncio.subprocess.DEVNULL,
        )
        return self

    async def __aexit__(self, *_):
        self.process.terminate()
        await self.process.wait()

    async def ask(self, path, **params):
        """A query of its API."""
        async with httpx2.AsyncClient(timeout=10) as client:
            found = await client.get(f"http://127.0.0.1:{self.port}/api/v1/{path}", params=params)
            return found.json()


def plain(expression):
    """A panel's query as Grafana would send it."""
    for name, value in {"$__rate_interval": "30s", "$__range": "5m", "$model": ".*", "$upstream": ".*"}.items():
        expression = expression.replace(name, value)
    return expression


async def judge(prometheus):
    """Panels without data, and queries that are wrong; alerts that fire."""
    empty, other, bad = [], [], []
    for panel in json.loads((SHIPPED / "grafana.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            found = await prometheus.ask("query", query=plain(target["expr"]), time=time.time())
            if found["status"] != "success":
                bad.append(f"{panel['title']}: {found.get('error')}")
            elif not found["data"]["result"]:
                (other if re.search("|".join(NOT_HERE), target["expr"]) else empty).append(panel["title"])
    rules = await prometheus.ask("rules")
    for group in rules["data"]["groups"]:
        bad += [f"{rule['name']}: {rule['lastError']}" for rule in group["rules"] if rule.get("lastError")]
    return empty, other, bad, sum(len(group["rules"]) for group in rules["data"]["groups"])


async def watch(seconds, rate, check, folder, port=9090):
    """Run it; whether the check, if there was one, found nothing wrong."""
    secret = {name: f"sk-{secrets.token_hex(24)}" for name in KEYS}
    async with FakeUpstream() as first, FakeUpstream() as second, FakeUpstream() as hook:
        first.default = second.default = answer
        hook.default = hear
        env = {
            "FIRST_UPSTREAM": f"{first.url}/first",
            "SECOND_UPSTREAM": f"{second.url}/second",
            "WEBHOOK": f"{hook.url}/calls",
            "WEBHOOK_SECRET": secrets.token_hex(16),
            "ALERTS": f"{hook.url}/alerts",
            "ALERTS_SECRET": secrets.token_hex(16),
            "GWCORE_ADMIN_KEY": secrets.token_hex(32),
            **{f"{name.upper()}_KEY": value for name, value in secret.items()},
        }
        os.chdir(folder)
        stack = (HERE / "stack.yaml").read_text().replace("port: 9090", f"port: {port}")
        made = Gateway(stack, env=env, serve_admin=True)
        async with running(made) as url:
            print(f"gateway {url}, metrics http://127.0.0.1:{port}/metrics", flush=True)
            calls = asyncio.create_task(load(url, list(secret.values()), rate))
            try:
                if not check:
                    await asyncio.sleep(seconds or 1e9)
                    return True
                async with Prometheus(f"127.0.0.1:{port}", folder) as prometheus:
                    await asyncio.sleep(seconds or 60)
                    empty, other, bad, rules = await judge(prometheus)
                print(f"{rules} rules loaded; wrong: {bad or 'none'}; empty: {empty or 'none'}; not here: {other}")
                return not (empty or bad) and rules > 0
            finally:
                calls.cancel()
                await asyncio.wait({calls})


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.check and shutil.which("prometheus") is None:
        sys.exit("prometheus is not on the PATH")
    with tempfile.TemporaryDirectory() as name:
        return 0 if asyncio.run(watch(args.seconds, args.rate, args.check, Path(name))) else 1


if __name__ == "__main__":
    sys.exit(main())
