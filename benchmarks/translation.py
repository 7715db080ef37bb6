"""Cost of translation compared to passing bytes through: µs CPU per request, per whole answer, per chunk of a stream.

``python benchmarks/translation.py``: one process, no network. Each figure is the best of five rounds, because other
load on the machine only adds time. Passing through only needs one splice of the model's name, so nothing is subtracted.
It never asserts a time; the targets are in the last line.
"""

import json
import time
from functools import partial

from gwcore.codec import Crossing, both_ways
from gwcore.translate import Translation, said
from gwcore_providers import gwcore_dialects

DIALECTS = {d.name: d for d in gwcore_dialects() if both_ways(d.chat) is not None}
CHAT = "openai.chat"
MODELS = {CHAT: "gpt-5.2", "openai.responses": "gpt-5.2", "anthropic.messages": "claude-opus-4-6"}
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}, "n": {"type": "integer"}}, "required": ["path"]}
CALL = {"id": "call_1", "type": "function", "function": {"name": "tool_0", "arguments": '{"path":"a"}'}}
ASKED = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "You are helpful. " * 24},
        {"role": "user", "content": "A question, please? " * 40},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "result " * 30},
        {"role": "user", "content": "Go on, then. " * 10},
    ],
    "tools": [
        {"type": "function", "function": {"name": f"tool_{at}", "description": "Does a thing.", "parameters": SCHEMA}}
        for at in range(2)
    ],
    "max_tokens": 500,
    "temperature": 0.5,
}
WORDS = ["The ", "quick ", "brown ", "fox\n", 'says "hi" ']


def best(work, count):
    """µs of one call; the best of five rounds."""
    rounds = []
    for _ in range(5):
        began = time.process_time()
        for _ in range(count):
            work()
        rounds.append((time.process_time() - began) / count * 1e6)
    return min(rounds)


def way(upstream, client, *, stream, document=None):
    crossing = Crossing("m", "asked", frozenset(), stream, True, 9, document or {"model": "asked"})
    return Translation(DIALECTS[client], DIALECTS[upstream], "/", crossing, b"")


def spoken(dialect, pieces):
    """A stream in one dialect, frame by frame: OpenAI's, converted by that dialect's own writer."""
    frames = [_chunk({"role": "assistant", "content": ""}), *(_chunk({"content": word}) for word in pieces)]
    usage = {"prompt_tokens": 500, "completion_tokens": len(pieces), "total_tokens": 500 + len(pieces)}
    last = {**_CHUNK, "choices": [], "usage": usage}
    frames += [_chunk({}, "stop"), b"data: %s\n\n" % json.dumps(last).encode(), b"data: [DONE]\n\n"]
    if dialect == CHAT:
        return frames
    stream = way(CHAT, dialect, stream=True).stream()
    told = [stream.feed(frame) for frame in frames]
    return [frame for frame in [*told, stream.close()] if frame]


_CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def _chunk(delta, finish=None):
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return b"data: %s\n\n" % json.dumps({**_CHUNK, "choices": [choice]}).encode()


def whole(dialect):
    """A whole answer in that dialect: a few sentences and a tool call."""
    message = {"role": "assistant", "content": "".join(WORDS) * 20, "tool_calls": [CALL]}
    usage = {"prompt_tokens": 500, "completion_tokens": 90, "total_tokens": 590}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    body = {**_CHUNK, "object": "chat.completion", "choices": [choice], "usage": usage}
    told = json.dumps(body).encode()
    if dialect == CHAT:
        return told
    there = way(CHAT, dialect, stream=False)
    return there.written(there.read(told))


def burst(upstream, client, frames, size):
    """A stream in reads of ``size`` frames each."""
    pieces = [b"".join(frames[at : at + size]) for at in range(0, len(frames), size)]

    def work():
        stream = way(upstream, client, stream=True).stream()
        for piece in pieces:
            stream.feed(piece)
        stream.close()

    return work


def ask(here, there, model, document):
    return said(here, there, Crossing(model, "m", request=document))


def tell(back, body):
    return back.written(back.read(body))


def main():
    print(
        f"request of {len(json.dumps(ASKED))} bytes, answer of {len(whole(CHAT))} bytes, stream of 200 chunks; µs CPU\n"
    )
    print("| client → upstream | request | whole answer | both | chunk, one per read | chunk, ten per read |")
    print("|---|--:|--:|--:|--:|--:|")
    asked = {CHAT: ASKED}
    for name, dialect in DIALECTS.items():
        if name != CHAT:
            crossing = Crossing(MODELS.get(name, "gemini-3-pro"), "m", request=ASKED)
            asked[name] = json.loads(said(DIALECTS[CHAT].chat, dialect.chat, crossing)[0])
    words = WORDS * 40
    for client, document in asked.items():
        for upstream in asked:
            if client == upstream:
                continue
            model = MODELS.get(upstream, "gemini-3-pro")
            here, there = DIALECTS[client].chat, DIALECTS[upstream].chat
            request = best(partial(ask, here, there, model, document), 400)
            answer = best(partial(tell, way(upstream, client, stream=False, document=document), whole(upstream)), 400)
            frames = spoken(upstream, words)
            chunks = [best(burst(upstream, client, frames, size), 20) / len(words) for size in (1, 10)]
            print(
                f"| {client} → {upstream} | {request:.0f} | {answer:.0f} | {request + answer:.0f} "
                f"| {chunks[0]:.1f} | {chunks[1]:.1f} |",
                flush=True,
            )
    print("\ntargets: request and answer together at most 100 µs, a chunk at most 12 µs")


if __name__ == "__main__":
    main()
