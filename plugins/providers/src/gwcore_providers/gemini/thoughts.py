"""Thought signatures in Google's parts. They must be base64, so a sealed foreign thought is encoded once more."""

from __future__ import annotations

import base64
import binascii
import re

from gwcore.chat import Reasoning
from gwcore_providers.crossing import seal, unseal

SEALED = "Z3cx"
"""Prefix of every sealed thought: ``gw1`` in base64."""

# models that sign calls reject a step of the current turn whose first call is unsigned; UNSIGNED replaces the signature
# of another model's call: https://ai.google.dev/gemini-api/docs/thought-signatures#faqs
SIGNS = re.compile(r"gemini-(?:[3-9]|\d\d)")
UNSIGNED = "skip_thought_signature_validator"


def closed(thought: Reasoning) -> str:
    """Returns a foreign thought as a ``thoughtSignature``."""
    return base64.b64encode(seal(thought).encode()).decode()


def opened(signature: object) -> Reasoning | None:
    """Returns the foreign thought in a ``thoughtSignature``; ``None`` for Google's own signatures."""
    if not isinstance(signature, str) or not signature.startswith(SEALED):
        return None
    try:
        token = base64.b64decode(
            signature + "=" * (-len(signature) % 4), altchars=b"-_" if "-" in signature or "_" in signature else None
        )
    except (binascii.Error, ValueError):
        return None
    return unseal(token.decode("ascii", "replace"))
