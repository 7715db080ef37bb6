"""Signatures in Google's parts: bytes in base64, so that what another vendor sealed is encoded once more."""

from __future__ import annotations

import base64
import binascii
import re

from gwcore.chat import Reasoning
from gwcore_providers.crossing import seal, unseal

SEALED = "Z3cx"
"""How all that is sealed begins: ``gw1`` in base64."""

# who signs calls refuses, in the turn being answered, a step whose first call is unsigned; this is what stands for the signature
# of a call that another model made: https://ai.google.dev/gemini-api/docs/thought-signatures#faqs
SIGNS = re.compile(r"gemini-(?:[3-9]|\d\d)")
UNSIGNED = "skip_thought_signature_validator"


def closed(thought: Reasoning) -> str:
    """A foreign thought for ``thoughtSignature``."""
    return base64.b64encode(seal(thought).encode()).decode()


def opened(signature: object) -> Reasoning | None:
    """The foreign thought in a ``thoughtSignature``; ``None`` for one of Google's own."""
    if not isinstance(signature, str) or not signature.startswith(SEALED):
        return None
    try:
        token = base64.b64decode(
            signature + "=" * (-len(signature) % 4), altchars=b"-_" if "-" in signature or "_" in signature else None
        )
    except (binascii.Error, ValueError):
        return None
    return unseal(token.decode("ascii", "replace"))
