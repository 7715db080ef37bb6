// The official Node SDKs as clients: reads {client, url, cases: [{id, stream}]} from stdin, writes one JSON line per answer.
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const { client, url, cases } = JSON.parse(await new Response(process.stdin).text());
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "x", maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, apiKey: "x", authToken: null, maxRetries: 0 });
const messages = [{ role: "user", content: "hi" }];

async function chat(stream) {
  const asked = { model: "up/m", messages };
  const whole = stream
    ? await openai.chat.completions
        .stream({ ...asked, stream_options: { include_usage: true } })
        .finalChatCompletion()
    : await openai.chat.completions.create(asked);
  const { message, finish_reason: finish } = whole.choices[0];
  const calls = (message.tool_calls ?? []).map((call) => {
    const body = call.function ?? call.custom;
    return [body.name, body.arguments ?? body.input];
  });
  const usage = whole.usage ? [whole.usage.prompt_tokens, whole.usage.completion_tokens] : null;
  return { text: message.content ?? "", refusal: message.refusal ?? "", calls, finish, usage };
}

async function responses(stream) {
  const asked = { model: "up/m", input: "hi" };
  const whole = stream ? await openai.responses.stream(asked).finalResponse() : await openai.responses.create(asked);
  const said = { text: "", refusal: "", calls: [], finish: whole.status, usage: null };
  for (const item of whole.output) {
    if (item.type === "message") {
      for (const piece of item.content) {
        said.text += piece.text ?? "";
        said.refusal += piece.refusal ?? "";
      }
    } else if (item.type === "function_call") said.calls.push([item.name, item.arguments]);
    else if (item.type === "custom_tool_call") said.calls.push([item.name, item.input]);
  }
  if (whole.usage) said.usage = [whole.usage.input_tokens, whole.usage.output_tokens];
  return said;
}

async function claude(stream) {
  const asked = { model: "up/m", max_tokens: 99, messages };
  const whole = stream ? await anthropic.messages.stream(asked).finalMessage() : await anthropic.messages.create(asked);
  const text = whole.content.filter((block) => block.type === "text").map((block) => block.text).join("");
  const calls = whole.content.filter((block) => block.type === "tool_use").map((block) => [block.name, block.input]);
  const used = whole.usage;
  const read = used.input_tokens + (used.cache_read_input_tokens ?? 0) + (used.cache_creation_input_tokens ?? 0);
  return { text, refusal: "", calls, finish: whole.stop_reason, usage: [read, used.output_tokens] };
}

const ask = { "openai.chat": chat, "openai.responses": responses, "anthropic.messages": claude }[client];
for (const { id, stream } of cases) {
  let line;
  try {
    line = { id, ...(await ask(stream)) };
  } catch (error) {
    line = { id, error: `${error.constructor.name}: ${error.message}`.slice(0, 300) };
  }
  console.log(JSON.stringify(line));
}
