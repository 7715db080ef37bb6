"""A mock upstream with minimal cost: prebuilt bytes on a bare asyncio protocol.

A request whose body contains ``"stream": true`` (or ``"stream":true``) gets 100 SSE chunks in a burst, any other a
reply of 600 bytes.
"""

import asyncio
import sys

import uvloop

TEXT = b"The quick brown fox jumps over the lazy dog. " * 7
BODY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"'
    + TEXT
    + b'"},"finish_reason":"stop"}],"usage":{"prompt_tokens":10,"completion_tokens":60,"total_tokens":70}}'
)
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
EVENT = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    b'{"content":"token "},"finish_reason":null}]}\n\n'
)
LAST = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},'
    b'"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


STREAM = HEAD + chunk(EVENT) * 99 + chunk(LAST) + b"0\r\n\r\n"


class Mock(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.buffer = b""

    def data_received(self, data):
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = self.buffer[end + 4 : end + 4 + length]
            self.buffer = self.buffer[end + 4 + length :]
            if b'"stream":true' in body or b'"stream": true' in body:
                self.stream()
            else:
                self.transport.write(WHOLE)

    def stream(self):
        """Send a burst, as from a fast model or a busy network: many events in one read."""
        self.transport.write(STREAM)


async def main():
    server = await asyncio.get_running_loop().create_server(Mock, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
