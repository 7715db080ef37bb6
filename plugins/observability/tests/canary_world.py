"""Secrets and a prompt that must be found nowhere, and upstreams that repeat whatever they were sent."""

import orjson
from obs_world import ok, streamed

from gwcore.testing.upstream import Answer, sse

PROMPT = "canary-prompt-7d1e"
UPSTREAM, HOOK, SIGNING, ADMIN, CLIENT, STRANGER, URLKEY = (
    "sk-canary-upstream-key-91f3aa", "canary-hook-token-8c2b", "canary-signing-secret-5e0d",
    "canary-4f8a1c7e9b2d6053-admin-key-value", "sk-canary-4f8a1c7e9b2d60531fae-client", "sk-canary-stranger-77aa11bb22",
    "AIzaCanaryUrlKey-1234567890",
)  # fmt: skip
SECRETS = (UPSTREAM, HOOK, SIGNING, ADMIN, CLIENT, STRANGER, URLKEY)


def echo(status):
    """An error that repeats what it was sent, key and all."""

    def answer(seen):
        said = f"bad {PROMPT} key {[value for _, value in seen.headers]} in {seen.target}"
        body = {"error": {"message": said, "code": PROMPT, "type": UPSTREAM}}
        return Answer(status, body=orjson.dumps(body), headers=[("x-request-id", UPSTREAM), ("x-leak", PROMPT)])

    return answer


FAULTS = [
    ok(choices=[{"index": 0, "message": {"role": "assistant", "content": PROMPT}, "finish_reason": "stop"}]),
    streamed(),
    ok(service_tier=UPSTREAM),
    ok(service_tier=f"{PROMPT} and more", usage={"prompt_tokens": 3, "completion_tokens": 1, PROMPT: 1}),
    *[echo(status) for status in (400, 401, 403, 404, 413, 422, 429, 500, 503)],
    Answer(body=sse({"error": {"message": PROMPT, "code": 500}})),
    Answer(body=f"<html>{PROMPT} {UPSTREAM}".encode()),
    Answer(raw=f"{PROMPT} {UPSTREAM}\r\n\r\n".encode()),
    Answer(body=streamed().body, cut_after=120),
    Answer(reset=True),
    Answer(body=streamed().body, stall_after=100),
]
BODY = {
    "messages": [
        {"role": "system", "content": PROMPT},
        {"role": "user", "content": [{"type": "text", "text": PROMPT}]},
        {
            "role": "assistant",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": PROMPT}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": PROMPT},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "description": PROMPT, "parameters": {}}}],
    "metadata": {"note": PROMPT, "session_id": f"s {CLIENT}"},
}
HEADERS = {
    "authorization": f"Bearer {CLIENT}",
    "user-agent": f"agent {CLIENT}",
    "x-session-id": UPSTREAM,
    "x-gwcore-tags": f"a,{ADMIN}",
    "cookie": PROMPT,
    "x-anything": f"{PROMPT} {CLIENT}",
}


def hits(found, canaries):
    return sorted((name, canary) for name, text in found.items() for canary in canaries if canary.encode() in text)
