"""The conformance kit: open, and with an admin key and a store."""

import secrets
from pathlib import Path

from gwcore.testing.conformance import PluginConformance
from gwcore_auth.plugin import Auth

ADMIN = secrets.token_hex(32)


class TestOpen(PluginConformance):
    kind = Auth
    config = {"open": True}
    readme = Path(__file__).parent.parent / "README.md"


class TestClosed(PluginConformance):
    kind = Auth
    config = {"admin_key": ADMIN, "store": "book", "blocked": {"end_users": ["nobody"]}}

    def service(self, plugin, inner):
        service = super().service(plugin, inner)

        async def with_key(made):
            made.credentials = (ADMIN,)
            return await service(made)

        return with_key

    def held(self, plugin):
        return len(plugin._loading)
