"""Dialects and providers for gwcore."""

from gwcore.dialect import Dialect
from gwcore.hookspecs import hookimpl
from gwcore.provider import Provider
from gwcore_providers.anthropic.messages import AnthropicMessages
from gwcore_providers.bedrock.converse import BedrockConverse
from gwcore_providers.bedrock.provider import Bedrock, Mantle
from gwcore_providers.cohere.chat import CohereChat
from gwcore_providers.cohere.provider import Cohere
from gwcore_providers.compatible import ROWS, provider_of
from gwcore_providers.demo.provider import Demo
from gwcore_providers.gemini.generate import GeminiGenerate
from gwcore_providers.ollama.chat import OllamaChat
from gwcore_providers.ollama.provider import Ollama
from gwcore_providers.openai.chat import OpenAIChat
from gwcore_providers.openai.lists import OpenAILists
from gwcore_providers.openai.responses import OpenAIResponses
from gwcore_providers.prices import gwcore_models, gwcore_price
from gwcore_providers.tei.lists import Tei
from gwcore_providers.tei.provider import TextEmbeddingsInference
from gwcore_providers.vendors import Anthropic, Azure, Gemini
from gwcore_providers.vertex.lists import VertexPredict
from gwcore_providers.vertex.provider import Vertex

__all__ = ["gwcore_dialects", "gwcore_models", "gwcore_price", "gwcore_providers"]


@hookimpl
def gwcore_dialects() -> list[Dialect]:
    """The four dialects that clients speak, and those of upstreams only. Translation prefers the first one served."""
    return [
        OllamaChat(),
        CohereChat(),
        VertexPredict(),
        OpenAIChat(),
        OpenAIResponses(),
        AnthropicMessages(),
        GeminiGenerate(),
        BedrockConverse(),
        OpenAILists(),
        Tei(),
    ]


@hookimpl
def gwcore_providers() -> list[Provider]:
    """Vendors with an API of their own, clouds, the OpenAI-compatible table, and the offline demo."""
    own: list[Provider] = [
        Anthropic(), Gemini(), Azure(), Vertex(), Bedrock(), Mantle(), Demo(), Ollama(), Cohere(),
        TextEmbeddingsInference(),
    ]  # fmt: skip
    known = {provider.name for provider in own}
    return own + [provider_of(name) for name in ROWS if name not in known]
