"""A closed-loop load driver: N connections, each of which sends the next request after a complete answer to the last.

Usage: ``load.py URL CONNECTIONS SECONDS json|sse``; prints one JSON line with requests, errors, p50 and p99 in ms.
``LOAD_HEADERS`` (lines ended by CR LF) are added to requests: some gateways are routed by headers.
"""

import asyncio
import json
import os
import sys
import time
from urllib.parse import urlsplit

import uvloop

PROMPT = "Please summarise the following text in three short sentences. " * 6


class Client(asyncio.Protocol):
    def __init__(self, request, until, took, stream, done):
        self.request, self.until, self.took, self.stream, self.done = request, until, took, stream, done
        self.errors = 0

    def connection_made(self, transport):
        self.transport = transport
        self.next()

    def next(self):
        self.buffer = b""
        self.at = time.perf_counter()
        if self.at >= self.until:
            self.transport.close()
            return
        self.transport.write(self.request)

    def data_received(self, data):
        # only search for the end: the driver must cost less than what it measures
        if self.stream:
            self.buffer = (self.buffer + data)[-16:]
            if not self.buffer.endswith(b"0\r\n\r\n"):
                return
        else:
            self.buffer += data
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            if at < 0:
                if not self.buffer.endswith(b"0\r\n\r\n"):
                    return
            elif len(self.buffer) < end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0]):
                return
            self.errors += b" 200 " not in self.buffer[:16]
        self.took.append(time.perf_counter() - self.at)
        self.next()

    def connection_lost(self, exc):
        if not self.done.done():
            self.done.set_result(None)


async def main():
    url, connections, seconds, mode = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    parts = urlsplit(url)
    body = json.dumps(
        {
            "model": "up/m",
            "messages": [{"role": "user", "content": PROMPT}],
            **({"stream": True} if mode == "sse" else {}),
        }
    ).encode()
    request = (
        f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\nauthorization: Bearer {os.environ.get('BENCH_KEY', 'sk-bench')}\r\n"
        f"content-type: application/json\r\n{os.environ.get('LOAD_HEADERS', '')}content-length: {len(body)}\r\n\r\n"
    ).encode() + body
    loop = asyncio.get_running_loop()
    took, clients, waits = [], [], []
    until = time.perf_counter() + seconds
    for _ in range(connections):
        done = loop.create_future()
        client = Client(request, until, took, mode == "sse", done)
        clients.append(client)
        waits.append(done)
        await loop.create_connection(lambda c=client: c, parts.hostname, parts.port)
    await asyncio.wait(waits, timeout=seconds + 10)
    took.sort()
    middle, high = (took[len(took) // 2], took[int(len(took) * 0.99)]) if took else (0, 0)
    print(
        json.dumps(
            {
                "requests": len(took),
                "errors": sum(c.errors for c in clients),
                "p50": middle * 1000,
                "p99": high * 1000,
                "seconds": seconds,
            }
        )
    )


if __name__ == "__main__":
    uvloop.run(main())
