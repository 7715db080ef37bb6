"""A recorded reply through the meter of its dialect, as it came and told again in the other framing."""

import base64
import json

from gwcore_providers import gwcore_dialects
from gwcore_providers.usage import anthropic_usage, bedrock_usage, cohere_usage

DIALECTS = {dialect.name: dialect for dialect in gwcore_dialects()}
# dialect of the recordings → ours and the operation
METERED = {
    "openai-chat": ("openai.chat", "chat"),
    "openai-responses": ("openai.responses", "chat"),
    "anthropic-messages": ("anthropic.messages", "chat"),
    "gemini-generate": ("gemini.generate", "chat"),
    "openai-embeddings": ("openai.chat", "embeddings"),
    "openai-images": ("openai.chat", "image_generation"),
    "rerank": ("openai.chat", "rerank"),
}
AUDIO = {"audio.speech": "speech", "audio.transcriptions": "transcription"}
# APIs without an ingress dialect: their readers alone
READERS = {"bedrock-invoke": anthropic_usage, "bedrock-converse": bedrock_usage, "cohere-chat-v2": cohere_usage}
SIZES = (1, 13, 1 << 20)


def body_of(record):
    response = record["response"]
    return base64.b64decode(response["body_b64"]) if "body_b64" in response else response.get("body", "").encode()


def documents(record):
    body = body_of(record)
    if record["digest"].get("framing") != "sse":
        found = json.loads(body)
        return found if isinstance(found, list) else [found]
    lines = body.replace(b"\r\n", b"\n").split(b"\n")
    return [json.loads(line[5:]) for line in lines if line.startswith(b"data:") and b"[DONE]" not in line]


def meter_of(record, *, stream):
    dialect, operation = METERED.get(record["dialect"], ("openai.chat", AUDIO.get(record["endpoint"])))
    return DIALECTS[dialect].meter(operation, {}, stream=stream)


def streamed(record, body, size):
    meter = meter_of(record, stream=True)
    for at in range(0, len(body), size):
        meter.feed(body[at : at + size])
    meter.finish()
    return meter.usage


def metered(record):
    """The usage of the recorded bytes."""
    if record["dialect"] in READERS:
        return READERS[record["dialect"]](documents(record)[0]["usage"])
    if record["digest"].get("framing") == "sse":
        return streamed(record, body_of(record), 333)
    meter = meter_of(record, stream=False)
    meter.whole(body_of(record))
    return meter.usage


def _merged(record):
    """The reply as one document, from whichever framing it came in."""
    merged = {}
    for document in documents(record):
        inner = next(
            (document[key] for key in ("response", "message") if isinstance(document.get(key), dict)), document
        )
        for key, value in inner.items():
            if key == "usage" and isinstance(value, dict) and record["dialect"] == "anthropic-messages":
                merged.setdefault("usage", {}).update({k: v for k, v in value.items() if v is not None})
            elif key == "candidates":
                merged.setdefault("candidates", []).extend(value)
            elif value is not None:
                merged[key] = value
    return merged


def _frames(record, whole):
    """The document as a stream of its dialect; usage stands where that dialect has it."""
    kind = record["dialect"]
    if kind == "openai-chat":
        base = {key: whole[key] for key in ("service_tier", "x_groq") if key in whole}
        usage = {"usage": whole["usage"]} if "usage" in whole else {}
        return [{"choices": [{"delta": {"content": "x"}}], "usage": None}, {**base, **usage, "choices": []}]
    if kind == "openai-responses":
        begun = {**whole, "usage": None, "output": []}
        return [{"type": "response.created", "response": begun}, {"type": "response.completed", "response": whole}]
    if kind == "anthropic-messages":
        begun = {**whole["usage"], "output_tokens": 1, "iterations": None, "server_tool_use": None}
        late = ("output_tokens", "output_tokens_details", "iterations", "server_tool_use")
        ended = {key: whole["usage"][key] for key in late if key in whole["usage"]}
        return [{"type": "message_start", "message": {"usage": begun}}, {"type": "message_delta", "usage": ended}]
    early = {**whole["usageMetadata"], "candidatesTokenCount": 1, "thoughtsTokenCount": 0}
    return [{**whole, "usageMetadata": early}, {"usageMetadata": whole["usageMetadata"]}]


def reframed(record):
    """What the meter reads where the same reply comes whole, and as a stream in pieces of several sizes."""
    if record["dialect"] not in {"openai-chat", "openai-responses", "anthropic-messages", "gemini-generate"}:
        return
    document = _merged(record)
    whole = meter_of(record, stream=False)
    whole.whole(json.dumps(document).encode())
    yield whole.usage
    frames = b"".join(b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in _frames(record, document))
    for size in SIZES:
        yield streamed(record, frames, size)
