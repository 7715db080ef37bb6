"""A model server that recites thirty numbers, whole or as a stream: ``python upstream.py PORT``.

Asked to go on after an answer that was cut off, it goes on, as a good model would.
"""

import asyncio
import json
import sys

WORDS = [f"{n} " for n in range(30)]
PACE = 0.005  # seconds per word


def chunk(delta, finish=None):
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    document = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "chat", "choices": [choice]}
    return b"data: " + json.dumps(document).encode() + b"\n\n"


async def answer(writer, request):
    """One answer, at the pace of a model."""
    said = "".join(m["content"] for m in request["messages"] if m["role"] == "assistant")
    words = WORDS[len(said.split()) :]
    if not request.get("stream"):
        await asyncio.sleep(PACE * len(words))
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = json.dumps({"id": "c", "object": "chat.completion", "choices": [choice]}).encode()
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        return
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    frames = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": word}) for word in words)]
    for frame in [*frames, chunk({}, "stop"), b"data: [DONE]\n\n"]:
        writer.write(b"%x\r\n%b\r\n" % (len(frame), frame))
        await asyncio.sleep(PACE)
    writer.write(b"0\r\n\r\n")


async def serve(reader, writer):
    """One connection, kept alive."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
            await answer(writer, json.loads(await reader.readexactly(size)))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client closed it
    finally:
        writer.close()


async def main(port):
    """Until killed."""
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
