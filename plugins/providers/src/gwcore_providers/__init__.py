"""Dialects and providers for gwcore."""

from gwcore.dialect import Dialect
from gwcore.hookspecs import hookimpl
from gwcore.provider import Provider
from gwcore_providers.anthropic.messages import AnthropicMessages
from gwcore_providers.bedrock.provider import Bedrock, Mantle
from gwcore_providers.compatible import ROWS, provider_of
from gwcore_providers.demo.provider import Demo
from gwcore_providers.gemini.generate import GeminiGenerate
from gwcore_providers.openai.chat import OpenAIChat
from gwcore_providers.openai.responses import OpenAIResponses
from gwcore_providers.prices import gwcore_price
from gwcore_providers.vendors import Anthropic, Azure, Gemini
from gwcore_providers.vertex.provider import Vertex

__all__ = ["gwcore_dialects", "gwcore_price", "gwcore_providers"]


@hookimpl
def gwcore_dialects() -> list[Dialect]:
    """The four client dialects."""
    return [OpenAIChat(), OpenAIResponses(), AnthropicMessages(), GeminiGenerate()]


@hookimpl
def gwcore_providers() -> list[Provider]:
    """Vendors with an API of their own, clouds, the table, and the offline demo."""
    own: list[Provider] = [Anthropic(), Gemini(), Azure(), Vertex(), Bedrock(), Mantle(), Demo()]
    return own + [provider_of(name) for name in ROWS]
