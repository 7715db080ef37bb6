"""The codec of ``anthropic.messages``."""

from __future__ import annotations

from gwcore.codec import Crossing, StreamReader, StreamWriter
from gwcore_providers.anthropic import read, reply, write
from gwcore_providers.anthropic.stream import MessagesReader, MessagesWriter


class MessagesCodec:
    """See :class:`gwcore.codec.ChatCodec`."""

    longest_name = 128
    read_request = staticmethod(read.read_request)
    write_request = staticmethod(write.write_request)
    read_reply = staticmethod(reply.read_reply)
    write_reply = staticmethod(reply.write_reply)
    read_error = staticmethod(reply.read_error)

    def reader(self) -> StreamReader:
        """A reader for one attempt."""
        return MessagesReader()

    def writer(self, crossing: Crossing) -> StreamWriter:
        """A writer for one attempt."""
        return MessagesWriter(crossing)
