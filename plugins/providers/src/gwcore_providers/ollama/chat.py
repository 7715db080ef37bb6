"""``ollama.chat``: Ollama's own ``/api/chat``, spoken to upstreams only."""

from __future__ import annotations

import re

from gwcore.codec import StreamReader
from gwcore_providers.base import UpstreamDialect
from gwcore_providers.ollama import reply, write
from gwcore_providers.ollama.lists import LISTS


class OllamaCodec:
    """See :class:`gwcore.codec.UpstreamCodec`."""

    write_request = staticmethod(write.write_request)
    read_reply = staticmethod(reply.read_reply)
    read_error = staticmethod(reply.read_error)

    def reader(self) -> StreamReader:
        """One per attempt."""
        return reply.OllamaReader()


class OllamaChat(UpstreamDialect):
    """Streams are JSON lines; the last one has ``done: true``."""

    name = write.DIALECT
    chat = OllamaCodec()
    lists = LISTS
    end_mark = re.compile(rb'"done"\s*:\s*true|"error"\s*:')
