"""The codec of ``openai.chat``."""

from __future__ import annotations

from gwcore.codec import Crossing, StreamReader, StreamWriter
from gwcore_providers.openai import chat_read, chat_reply, chat_write
from gwcore_providers.openai.chat_stream import ChatReader, ChatWriter


class ChatCodec:
    """See :class:`gwcore.codec.ChatCodec`."""

    read_request = staticmethod(chat_read.read_request)
    write_request = staticmethod(chat_write.write_request)
    read_reply = staticmethod(chat_reply.read_reply)
    write_reply = staticmethod(chat_reply.write_reply)
    read_error = staticmethod(chat_reply.read_error)

    def reader(self) -> StreamReader:
        """One per attempt."""
        return ChatReader()

    def writer(self, crossing: Crossing) -> StreamWriter:
        """One per attempt."""
        return ChatWriter(crossing)
