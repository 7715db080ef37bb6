"""``cohere.chat``: Cohere's own ``/v2/chat``, for upstreams only."""

from __future__ import annotations

import re

from gwcore.codec import StreamReader
from gwcore_providers.base import UpstreamDialect
from gwcore_providers.cohere import reply, write
from gwcore_providers.cohere.lists import LISTS


class CohereCodec:
    """See :class:`gwcore.codec.UpstreamCodec`."""

    write_request = staticmethod(write.write_request)
    read_reply = staticmethod(reply.read_reply)
    read_error = staticmethod(reply.read_error)

    def reader(self) -> StreamReader:
        """A reader for one attempt."""
        return reply.CohereReader()


class CohereChat(UpstreamDialect):
    """Server-sent events; ``message-end`` is the last meaningful one."""

    name = write.DIALECT
    chat = CohereCodec()
    lists = LISTS
    end_mark = re.compile(rb"message-end|\[DONE\]")
    last_mark = re.compile(rb"^event: ?message-end|^data: ?\[DONE\]", re.MULTILINE)
