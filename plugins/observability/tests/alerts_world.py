"""Places that take alerts, and are as strict as the real ones."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
from contextlib import asynccontextmanager, closing, suppress

import orjson

from gwcore.testing.upstream import Answer, FakeUpstream


def slack_answer(seen):
    """What an incoming webhook answers: https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks."""
    if seen.method != "POST" or not (seen.header("content-type") or "").startswith("application/json"):
        return Answer(400, body=b"invalid_payload")
    try:
        said = orjson.loads(seen.body)
    except orjson.JSONDecodeError:
        return Answer(400, body=b"invalid_payload")
    text = said.get("text") if isinstance(said, dict) else None
    if not isinstance(text, str) or not text.strip():
        return Answer(400, body=b"no_text")
    known = {"text", "blocks", "attachments", "thread_ts", "mrkdwn", "channel", "username", "icon_emoji"}
    if set(said) - known or len(text) > 40_000:
        return Answer(400, body=b"invalid_payload")
    return Answer(200, [("content-type", "text/plain")], b"ok")


class Slack(FakeUpstream):
    """An incoming webhook."""

    def __init__(self, *answers):
        super().__init__(*answers)
        self.default = slack_answer

    @property
    def texts(self):
        return [seen.document["text"] for seen in self.requests if slack_answer(seen).status == 200]

    async def until(self, *words, within=10.0):
        """Until each of the words was told; all texts."""
        async with asyncio.timeout(within):
            while not all(any(word in text for text in self.texts) for word in words):
                await asyncio.sleep(0.01)
        return self.texts


class Mail:
    """A mail server that follows RFC 5321 as far as a client of ours goes, with STARTTLS (3207) and AUTH (4954)."""

    def __init__(self, *, context=None, offer=True, login=None, replies=()):
        self.context, self.offer, self.login = context, offer, login
        self.replies = list(replies)  # to the next mails
        self.mails, self.lines, self.sealed = [], [], []

    async def _talk(self, reader, writer):
        sealed = authenticated = False

        async def say(*lines):
            writer.write("".join(f"{line}\r\n" for line in lines).encode())
            await writer.drain()

        await say("220 test ESMTP")
        while line := await reader.readline():
            word, _, rest = line.decode().strip().partition(" ")
            self.lines.append((sealed, line.decode().strip()))
            match word.upper():
                case "EHLO":
                    extra = ["STARTTLS"] if self.context and self.offer and not sealed else []
                    extra += ["AUTH PLAIN"] if self.login and (sealed or not self.context) else []
                    offered = ["test", *extra, "8BITMIME"]
                    await say(*(f"250{'-' if n + 1 < len(offered) else ' '}{one}" for n, one in enumerate(offered)))
                case "STARTTLS" if self.context and self.offer:
                    await say("220 go ahead")
                    await writer.start_tls(self.context)
                    sealed = True
                case "AUTH":
                    given = base64.b64decode(rest.split()[1]).decode().split("\0")[1:]
                    authenticated = tuple(given) == self.login
                    await say("235 welcome" if authenticated else "535 5.7.8 wrong")
                case "MAIL" if self.login and not authenticated:
                    await say("530 5.7.0 log in first")
                case "DATA":
                    await say("354 go on")
                    data = await reader.readuntil(b"\r\n.\r\n")
                    reply = self.replies.pop(0) if self.replies else "250 taken"
                    if reply.startswith("250"):
                        body = data[:-3].replace(b"\r\n..", b"\r\n.")
                        self.mails.append(email.message_from_bytes(body, policy=email.policy.default))
                        self.sealed.append(sealed)
                    await say(reply)
                case "MAIL" | "RCPT" | "RSET":
                    await say("250 fine")
                case "QUIT":
                    await say("221 bye")
                    break
                case _:
                    await say("502 what?")

    async def until(self, count, within=10.0):
        async with asyncio.timeout(within):
            while len(self.mails) < count:
                await asyncio.sleep(0.01)
        return self.mails

    @asynccontextmanager
    async def open(self, *, sealed=False):
        """Yields the port; ``sealed`` from the first byte on."""

        talks = []

        async def talk(reader, writer):
            talks.append(asyncio.current_task())
            with suppress(OSError, asyncio.IncompleteReadError), closing(writer):
                await self._talk(reader, writer)
            with suppress(OSError):
                await writer.wait_closed()

        server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=self.context if sealed else None)
        async with server:
            yield server.sockets[0].getsockname()[1]
        for one in talks:  # a client's thread may outlive its gateway
            one.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


def alerts(to, **settings):
    """An entry of ``watch`` that looks often and forgets fast."""
    return "  - alerts: " + orjson.dumps({"to": to, "every": "50ms", "settle": "200ms", **settings}).decode()
