"""A raw HTTP/1.1 client: what a test sends is what leaves, and what it sees is what came."""

import asyncio
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Seen:
    """One response: body with its transfer-encoding removed; ``whole`` says whether its framing was complete."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    whole: bool = False
    chunks: list[bytes] = field(default_factory=list)


def request_bytes(url, method, path, body=b"", headers=()):
    host = urlsplit(url).netloc
    names = {name.lower() for name, _ in headers}
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}"]
    if "content-length" not in names:
        lines.append(f"content-length: {len(body)}")
    if "content-type" not in names and body:
        lines.append("content-type: application/json")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


async def read_response(reader, *, head=False):
    top = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    lines = top.split("\r\n")
    seen = Seen(int(lines[0].split(" ")[1]), {})
    for line in lines[1:]:
        name, _, value = line.partition(":")
        if name:
            seen.headers[name.lower()] = value.strip()
    if head:
        seen.whole = True
        return seen
    try:
        if seen.headers.get("transfer-encoding") == "chunked":
            while True:
                size = int((await reader.readline()).strip() or b"-1", 16)
                if size <= 0:
                    seen.whole = size == 0
                    await reader.readline()
                    break
                seen.chunks.append(await reader.readexactly(size))
                await reader.readexactly(2)
        else:
            seen.chunks.append(await reader.readexactly(int(seen.headers.get("content-length", 0))))
            seen.whole = True
    except (asyncio.IncompleteReadError, ConnectionError, ValueError):
        seen.whole = False
    seen.body = b"".join(seen.chunks)
    return seen


async def connect(url):
    parts = urlsplit(url)
    return await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 26)


async def exchange(url, method, path, body=b"", headers=()):
    reader, writer = await connect(url)
    try:
        writer.write(request_bytes(url, method, path, body, headers))
        await writer.drain()
        return await read_response(reader, head=method == "HEAD")
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            pass
