"""Destinations: alerts as messages for Slack and compatible chats, as JSON for an endpoint, and as mail."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import ssl
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Any

import orjson
import structlog

from gwcore.plugin import Setup
from gwcore.wire.transport import Tls
from gwcore_observability.alerts.settings import DestinationConfig, EmailConfig
from gwcore_observability.content import Content
from gwcore_observability.ids import event_id
from gwcore_observability.record import Record
from gwcore_observability.settings import OutboxConfig
from gwcore_observability.sink import ACCEPTED, Delivery, HttpSender, Sink, Verdict
from gwcore_observability.spill import Item
from gwcore_observability.webhook import WebhookConfig, WebhookSink

LONGEST = 3500
"""Characters of a chat message: Slack truncates longer ones (recommended: 4,000, https://docs.slack.dev/messaging)."""
SIGNS = {"firing": "🔴", "reminder": "🟠", "over": "🟢", "note": "📊"}
_log = structlog.get_logger("gwcore.observability")
_ZERO_WIDTH = "\u200b"
_REFUSED_FOR_GOOD = frozenset({550, 551, 552, 553, 554})


def sink_of(config: DestinationConfig, outbox: OutboxConfig, setup: Setup) -> Sink:
    """The sink of a destination."""
    if config.email is not None:
        return EmailSink(config.email, outbox.timeout)
    return SlackSink(config, outbox, setup) if config.slack is not None else JsonSink(config, outbox, setup)


class _Encoding:
    """For outboxes whose items are encoded already."""

    def encode(self, record: Record, content: Content | None) -> Item:
        """Calls are never put in."""
        raise NotImplementedError


class JsonSink(WebhookSink):
    """An array of alerts per POST, signed like the records of ``webhook``."""

    def __init__(self, config: DestinationConfig, outbox: OutboxConfig, setup: Setup) -> None:
        assert config.webhook is not None
        settings = WebhookConfig(
            url=config.webhook.get_secret_value(),
            secret=config.secret,
            headers=config.headers,
            ca_file=config.ca_file,
            proxy=config.proxy,
            outbox=outbox,
        )
        super().__init__(settings, setup)


class SlackSink(_Encoding, HttpSender):
    """``{"text": …}``, which Slack, Mattermost, Rocket.Chat and others accept.

    https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
    """

    def __init__(self, config: DestinationConfig, outbox: OutboxConfig, setup: Setup) -> None:
        assert config.slack is not None
        headers = [(b"content-type", b"application/json")]
        headers += [
            (name.lower().encode(), value.get_secret_value().encode()) for name, value in config.headers.items()
        ]
        transport = setup.transport(Tls(ca_file=config.ca_file), config.proxy)
        super().__init__(transport, config.slack.get_secret_value(), headers, outbox.timeout)

    def pack(self, items: Sequence[Item]) -> Sequence[Delivery]:
        """As many alerts per message as fit: Slack takes one message per second."""
        return [Delivery(part, orjson.dumps({"text": "\n\n".join(texts)})) for part, texts in _parts(items)]


def _parts(items: Sequence[Item]) -> Iterator[tuple[list[Item], list[str]]]:
    part: list[Item] = []
    texts: list[str] = []
    for item in items:
        text = chat(orjson.loads(item.body))
        if part and sum(map(len, texts)) + 2 * len(texts) + len(text) > LONGEST:
            yield part, texts
            part, texts = [], []
        part.append(item)
        texts.append(text)
    if part:
        yield part, texts


def chat(alert: dict[str, Any]) -> str:
    """An alert in chat markup. Names in it can neither mention anybody nor become links."""
    lines = [f"{SIGNS[alert['state']]} *{_title(alert)}*"]
    lines += [f"• {name}: {value}" for name, value in _facts(alert)]
    text = "\n".join(map(_tame, lines))[: LONGEST - 200]
    if alert["text"]:
        room = max(0, LONGEST - len(text) - 20)
        text += f"\n```\n{_tame(alert['text'].replace('`', chr(39)))[:room]}\n```"
    return text


def _tame(text: str) -> str:
    """Escape as Slack requires, and break mentions and links (also Mattermost's)."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for sign in ("@", ":/", "]("):
        text = text.replace(sign, f"{sign[0]}{_ZERO_WIDTH}{sign[1:]}")
    return text


def _title(alert: dict[str, Any]) -> str:
    return f"{alert['title']}{' (still)' if alert['state'] == 'reminder' else ''}"


def _facts(alert: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield from alert["facts"].items()
    if alert["state"] in {"reminder", "over"}:
        yield "since", alert["since"]
    yield "at", alert["at"]


class EmailSink(_Encoding):
    """One mail per batch, sent by the standard library's client in a thread."""

    def __init__(self, config: EmailConfig, timeout: float) -> None:
        self._config = config
        self._timeout = timeout / 2  # per step: the thread should end before the outbox gives up waiting

    def pack(self, items: Sequence[Item]) -> Sequence[Delivery]:
        """All alerts in one mail."""
        return [Delivery(items)]

    async def send(self, delivery: Delivery) -> Verdict:
        """Send the mail, after logging in if configured."""
        mail = self._mail(delivery.items)
        try:
            await asyncio.to_thread(self._hand_over, mail)
        except smtplib.SMTPDataError as error:
            return Verdict("refused" if error.smtp_code in _REFUSED_FOR_GOOD else "later", f"smtp_{error.smtp_code}")
        except smtplib.SMTPResponseException as error:
            return Verdict("later", f"smtp_{error.smtp_code}")
        except smtplib.SMTPRecipientsRefused:
            return Verdict("later", "smtp_recipients")
        except OSError as error:  # includes smtplib's own errors
            return Verdict("later", type(error).__name__)
        return ACCEPTED

    def _hand_over(self, mail: EmailMessage) -> None:
        config = self._config
        context = ssl.create_default_context(cafile=config.ca_file)
        with (
            smtplib.SMTP_SSL(config.host, config.port, timeout=self._timeout, context=context)
            if config.security == "tls"
            else smtplib.SMTP(config.host, config.port, timeout=self._timeout)
        ) as server:
            if config.security == "starttls":
                server.starttls(context=context)  # raises if not offered: never send unencrypted
            if config.username is not None and config.password is not None:
                server.login(config.username, config.password.get_secret_value())
            refused = server.send_message(mail)
            if refused:  # the server accepted the mail for the other recipients
                _log.warning("some recipients of alerts were refused", host=config.host, count=len(refused))

    def _mail(self, items: Sequence[Item]) -> EmailMessage:
        alerts = [orjson.loads(item.body) for item in items]
        mail = EmailMessage()
        first = f"[gwcore] {SIGNS[alerts[0]['state']]} {_title(alerts[0])}"
        mail["Subject"] = first if len(alerts) == 1 else f"{first} (+{len(alerts) - 1})"
        mail["From"] = self._config.sender
        mail["To"] = ", ".join(self._config.to)
        mail["Date"] = format_datetime(datetime.now(UTC))
        domain = self._config.sender.partition("@")[2] or socket.gethostname()
        # the same alerts have the same id if sent again
        mail["Message-ID"] = f"<{event_id(','.join(item.id for item in items), 'mail')}@{domain}>"
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
        mail.set_content("\n\n".join(map(_letter, alerts)) + "\n")
        return mail


def _letter(alert: dict[str, Any]) -> str:
    lines = [_title(alert), *(f"  {name}: {value}" for name, value in _facts(alert))]
    return "\n".join(lines) + (f"\n\n{alert['text']}" if alert["text"] else "")
