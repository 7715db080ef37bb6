"""The vendors' own SDKs as clients: each reads an answer with its accumulator and says what it got."""

import json

import openai
from anthropic import AsyncAnthropic
from google import genai
from google.genai import types
from openai import AsyncOpenAI

from tests.fidelity.oracle import Said, arguments

HELLO = [{"role": "user", "content": "hi"}]


def client_for(dialect, url, **more):
    if dialect.startswith("openai"):
        return AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, **more)
    if dialect.startswith("anthropic"):
        return AsyncAnthropic(base_url=url, api_key="x", max_retries=0, **more)
    return genai.Client(api_key="x", http_options=types.HttpOptions(base_url=url, api_version="v1beta"))


async def close(client):
    await (client.aio.aclose() if isinstance(client, genai.Client) else client.close())


async def chat(client, model, stream):
    if stream:
        whole = await _accumulated(client, model)
    else:
        whole = await client.chat.completions.create(model=model, messages=HELLO)
    message = whole.choices[0].message
    calls = []
    for call in message.tool_calls or ():
        body = call.function if call.type == "function" else call.custom
        calls.append((body.name, arguments(getattr(body, "arguments", None) or getattr(body, "input", ""))))
    thought = (message.model_extra or {}).get("reasoning_content") or ""
    return Said(
        message.content or "", thought, calls, message.refusal or "", whole.choices[0].finish_reason, total(whole.usage)
    )


async def _accumulated(client, model):
    """By the SDK's own accumulator, whose last step refuses what was cut or filtered by raising."""
    async with client.chat.completions.stream(
        model=model, messages=HELLO, stream_options={"include_usage": True}
    ) as events:
        try:
            async for _ in events:
                pass
            return await events.get_final_completion()
        except (openai.LengthFinishReasonError, openai.ContentFilterFinishReasonError):
            return events.current_completion_snapshot


def total(usage):
    return usage and (usage.prompt_tokens, usage.completion_tokens)


async def responses(client, model, stream):
    if stream:
        async with client.responses.stream(model=model, input="hi") as events:
            async for event in events:
                if event.type in ("response.completed", "response.incomplete", "response.failed"):
                    whole = event.response
    else:
        whole = await client.responses.create(model=model, input="hi")
    said = Said(finish=whole.status)
    for item in whole.output:
        if item.type == "message":
            for piece in item.content:
                said.text += getattr(piece, "text", "")
                said.refusal += getattr(piece, "refusal", "")
        elif item.type == "reasoning":
            said.reasoning += "".join(part.text for part in item.summary)
        elif item.type in ("function_call", "custom_tool_call"):
            given = item.arguments if item.type == "function_call" else item.input
            said.calls.append((item.name, arguments(given)))
    said.usage = whole.usage and (whole.usage.input_tokens, whole.usage.output_tokens)
    return said


async def messages(client, model, stream):
    if stream:
        async with client.messages.stream(model=model, max_tokens=99, messages=HELLO) as events:
            async for _ in events:
                pass
            whole = await events.get_final_message()
    else:
        whole = await client.messages.create(model=model, max_tokens=99, messages=HELLO)
    said = Said(finish=whole.stop_reason)
    for block in whole.content:
        if block.type == "text":
            said.text += block.text
        elif block.type == "thinking":
            said.reasoning += block.thinking
        elif block.type == "tool_use":
            said.calls.append((block.name, json.loads(json.dumps(block.input))))
    usage = whole.usage
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    said.usage = (usage.input_tokens + cached, usage.output_tokens)
    return said


async def generate(client, model, stream):
    if stream:
        chunks = await client.aio.models.generate_content_stream(model=model, contents="hi")
        listed = [chunk async for chunk in chunks]
    else:
        listed = [await client.aio.models.generate_content(model=model, contents="hi")]
    said = Said()
    for chunk in listed:
        for one in [one for one in chunk.candidates or () if not one.index]:
            said.finish = one.finish_reason or said.finish
            for part in (one.content.parts if one.content else None) or ():
                if part.thought:
                    said.reasoning += part.text or ""
                elif part.text:
                    said.text += part.text
                elif part.function_call:
                    said.calls.append((part.function_call.name, part.function_call.args or {}))
        if chunk.usage_metadata:
            usage = chunk.usage_metadata
            said.usage = (
                usage.prompt_token_count, (usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0)
            )  # fmt: skip
    return said


ASK = {"openai.chat": chat, "openai.responses": responses, "anthropic.messages": messages, "gemini.generate": generate}
