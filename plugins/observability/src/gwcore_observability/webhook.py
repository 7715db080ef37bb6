"""``webhook``: records as signed JSON, to any HTTP endpoint.

One POST per batch, a JSON array of records. If the same records are sent again, ``webhook-id`` and each record's
``event`` are the same. The signature follows the Standard Webhooks specification 1.0::

    webhook-signature: v1,<base64 of HMAC-SHA256(secret, "<webhook-id>.<webhook-timestamp>.<body>")>
"""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import orjson
from pydantic import BaseModel, Field

from gwcore.hookspecs import hookimpl
from gwcore.plugin import Plugin, Setup
from gwcore_observability.content import Content
from gwcore_observability.ids import event_id
from gwcore_observability.plugin import SinkPlugin
from gwcore_observability.record import Record
from gwcore_observability.settings import Address, HttpSinkConfig, Signing, signing_key
from gwcore_observability.sink import Delivery, HttpSender, Sink, Verdict
from gwcore_observability.spill import Item


class WebhookConfig(HttpSinkConfig):
    """Settings of ``webhook``."""

    url: Address = Field(description="URL that receives POSTs of JSON arrays of records.", pattern="^https?://")
    secret: Signing | None = Field(
        default=None,
        description="Secret that signs each request (Standard Webhooks): `whsec_` and base64, or any text. Without "
        "it, requests are not signed.",
        repr=False,
    )


def document(record: Record, content: Content | None) -> dict[str, Any]:
    """A record as JSON: its fields, and ``content`` if present."""
    said = record.document()
    if content is not None:
        said["content"] = {"request": content.request, "response": content.response, "truncated": content.truncated}
    return said


class WebhookSink(HttpSender):
    """The sink."""

    def __init__(self, config: WebhookConfig, setup: Setup) -> None:
        super().__init__(
            setup.transport(config.tls, config.proxy), config.url, config.fixed_headers(), config.outbox.timeout
        )
        self._secret = signing_key(config.secret) if config.secret else None

    def encode(self, record: Record, content: Content | None) -> Item:
        """One JSON object."""
        said = record.json() if content is None else orjson.dumps(document(record, content), default=str)
        return Item(record.event, said)

    def pack(self, items: Sequence[Item]) -> Sequence[Delivery]:
        """One array."""
        body = b"[" + b",".join([item.body for item in items]) + b"]"
        id_ = event_id(",".join([item.id for item in items]), "webhook")
        return [Delivery(items, body, [(b"content-type", b"application/json"), (b"webhook-id", id_.encode())])]

    async def send(self, delivery: Delivery) -> Verdict:
        """One POST, signed when sent because receivers reject old timestamps."""
        headers = [*delivery.headers]
        if self._secret is not None:
            id_ = next(value for name, value in headers if name == b"webhook-id")
            at = b"%d" % time.time()
            digest = hmac.digest(self._secret, b".".join((id_, at, delivery.body)), "sha256")
            headers += [(b"webhook-timestamp", at), (b"webhook-signature", b"v1," + base64.b64encode(digest))]
        return await super().send(Delivery(delivery.items, delivery.body, headers, delivery.target))


class Webhook(SinkPlugin):
    """Records as signed JSON, to any HTTP endpoint."""

    name = "webhook"
    Config: ClassVar[type[BaseModel]] = WebhookConfig

    @property
    def where(self) -> str:
        """The URL."""
        url: str = self.config.url
        return url

    def sink(self) -> Sink:
        """The sink."""
        return WebhookSink(self.config, self.setup)


@hookimpl
def gwcore_plugins() -> list[type[Plugin]]:
    """For the stack file."""
    return [Webhook]
