"""``logprobsResult`` ↔ the list of OpenAI's APIs: one object per token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def read(result: Any) -> list[dict[str, Any]]:
    """Returns the tokens in order, each with its most likely alternatives."""
    if not isinstance(result, Mapping):
        return []
    likely = [step.get("candidates") or [] for step in result.get("topCandidates") or []]
    out = []
    for at, chosen in enumerate(result.get("chosenCandidates") or []):
        others = likely[at] if at < len(likely) else []
        out.append({**_token(chosen), "top_logprobs": [_token(one) for one in others]})
    return out


def _token(candidate: Mapping[str, Any]) -> dict[str, Any]:
    token = str(candidate.get("token") or "")
    return {"token": token, "logprob": candidate.get("logProbability", 0.0), "bytes": list(token.encode())}


def written(tokens: Any) -> dict[str, Any]:
    """Returns the ``logprobsResult`` of that list."""
    return {
        "chosenCandidates": [_candidate(one) for one in tokens],
        "topCandidates": [{"candidates": [_candidate(top) for top in one.get("top_logprobs") or []]} for one in tokens],
    }


def _candidate(token: Mapping[str, Any]) -> dict[str, Any]:
    return {"token": token.get("token"), "logProbability": token.get("logprob")}
