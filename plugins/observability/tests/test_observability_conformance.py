"""The conformance kit."""

from gwcore.testing.conformance import PluginConformance
from gwcore_observability.webhook import Webhook


class TestWebhook(PluginConformance):
    kind = Webhook
    config = {"url": "http://127.0.0.1:9/hook", "secret": "sign-me", "outbox": {"flush": 0}}
