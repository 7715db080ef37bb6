"""The codec of ``openai.chat``."""

from __future__ import annotations

from typing import Any

from gwcore.chat import ChatRequest
from gwcore.codec import Crossing, StreamReader, StreamWriter
from gwcore_providers.openai import chat_read, chat_reply, chat_write, responses_read
from gwcore_providers.openai.chat_stream import ChatReader, ChatWriter


class ChatCodec:
    """See :class:`gwcore.codec.ChatCodec`."""

    write_request = staticmethod(chat_write.write_request)
    read_reply = staticmethod(chat_reply.read_reply)
    write_reply = staticmethod(chat_reply.write_reply)
    read_error = staticmethod(chat_reply.read_error)

    def read_request(self, document: dict[str, Any], model: str, *, stream: bool) -> ChatRequest:
        """See :meth:`gwcore.codec.ChatCodec.read_request`. A body in the shape of the Responses API is read as such."""
        if "messages" in document or "input" not in document:
            return chat_read.read_request(document, model, stream=stream)
        request = responses_read.read_request(document, model, stream=stream)
        request.usage_wanted = chat_read.wants_usage(document)
        request.extra.pop("stream_options", None)
        return request

    def reader(self) -> StreamReader:
        """One per attempt."""
        return ChatReader()

    def writer(self, crossing: Crossing) -> StreamWriter:
        """One per attempt."""
        return ChatWriter(crossing)
