"""``bedrock.converse``: Amazon Bedrock's own API, for models without another one."""

from __future__ import annotations

import re

from gwcore.codec import StreamReader
from gwcore_providers.base import UpstreamDialect
from gwcore_providers.bedrock import reply, write


class ConverseCodec:
    """See :class:`gwcore.codec.UpstreamCodec`."""

    write_request = staticmethod(write.write_request)
    read_reply = staticmethod(reply.read_reply)
    read_error = staticmethod(reply.read_error)

    def reader(self) -> StreamReader:
        """A reader for one attempt."""
        return reply.ConverseReader()


class BedrockConverse(UpstreamDialect):
    """Its binary stream arrives as server-sent events; see :mod:`gwcore_providers.bedrock.framing`."""

    name = write.DIALECT
    chat = ConverseCodec()
    end_mark = re.compile(rb"event: ?messageStop|Exception")
    last_mark = re.compile(rb"^event: ?metadata", re.MULTILINE)
