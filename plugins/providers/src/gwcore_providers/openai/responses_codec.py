"""The codec of ``openai.responses``."""

from __future__ import annotations

from gwcore.codec import Crossing, StreamReader, StreamWriter
from gwcore_providers.openai import responses_read, responses_reply, responses_write
from gwcore_providers.openai.responses_stream import ResponsesReader, ResponsesWriter


class ResponsesCodec:
    """See :class:`gwcore.codec.ChatCodec`."""

    read_request = staticmethod(responses_read.read_request)
    write_request = staticmethod(responses_write.write_request)
    read_reply = staticmethod(responses_reply.read_reply)
    write_reply = staticmethod(responses_reply.write_reply)
    read_error = staticmethod(responses_reply.read_error)

    def reader(self) -> StreamReader:
        """One per attempt."""
        return ResponsesReader()

    def writer(self, crossing: Crossing) -> StreamWriter:
        """One per attempt."""
        return ResponsesWriter(crossing)
