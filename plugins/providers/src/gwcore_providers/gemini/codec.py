"""The codec of ``gemini.generate``."""

from __future__ import annotations

from typing import Any

from gwcore.chat import ChatReply
from gwcore.codec import Crossing, StreamReader, StreamWriter
from gwcore.errors import Malformed
from gwcore.events import gather
from gwcore_providers.gemini import read, reply, write
from gwcore_providers.gemini.stream import GeminiReader, GeminiWriter, ListWriter


class GeminiCodec:
    """See :class:`gwcore.codec.ChatCodec`."""

    read_request = staticmethod(read.read_request)
    joined = staticmethod(read.joined)
    write_request = staticmethod(write.write_request)
    write_reply = staticmethod(reply.write_reply)
    read_error = staticmethod(reply.read_error)

    def read_reply(self, document: Any) -> ChatReply:
        """Reads one reply, or the list of replies that is sent for a stream without ``alt=sse``."""
        if not isinstance(document, list):
            return reply.read_reply(document)
        reader = GeminiReader()
        events = [event for chunk in document if isinstance(chunk, dict) for event in reader.events(chunk)]
        try:
            return gather([*events, *reader.close()], read.DIALECT)
        except ValueError as error:
            raise Malformed(f"the upstream's list of replies holds no answer: {error}") from None

    def reader(self) -> StreamReader:
        """A reader for one attempt."""
        return GeminiReader()

    def writer(self, crossing: Crossing) -> StreamWriter:
        """A writer for one attempt: server-sent events, or a JSON list if the client did not ask for ``alt=sse``."""
        if crossing.query is None or b"alt=sse" in crossing.query:
            return GeminiWriter(crossing)
        crossing.content_type = b"application/json; charset=utf-8"
        return ListWriter(GeminiWriter(crossing))
