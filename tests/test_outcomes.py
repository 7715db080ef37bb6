"""The table of endings, against errors as vendors write them."""

import asyncio
import json

import pytest

from gwcore import errors
from gwcore.outcomes import SIGNS, TABLE, ending


def refused(status, **error):
    return errors.Refused("no", status=status, body=json.dumps({"error": error}).encode())


def said(status, message, **more):
    return refused(status, message=message, **more)


CASES = [
    (errors.Exhausted("too many open files"), "exhausted"),
    (
        said(400, "This model's maximum context length is 8192 tokens.", code="context_length_exceeded"),
        "context_window",
    ),
    (said(400, "prompt is too long: 210000 tokens > 200000 maximum", type="invalid_request_error"), "context_window"),
    (said(400, "input length and `max_tokens` exceed context limit: 199000 + 8000 > 200000"), "context_window"),
    (
        said(400, "The input token count (2000000) exceeds the maximum number of tokens allowed (1048575)."),
        "context_window",
    ),
    (said(400, "the request exceeds the available context size", type="exceed_context_size_error"), "context_window"),
    (said(400, "Input is too long for requested model."), "context_window"),
    (said(413, "Please reduce the length of the messages or completion."), "context_window"),
    (
        said(400, "filtered", code="content_filter", innererror={"code": "ResponsibleAIPolicyViolation"}),
        "content_policy",
    ),
    (said(400, "Output blocked by content filtering policy"), "content_policy"),
    (said(400, "Your request was rejected as a result of our safety system."), "content_policy"),
    (said(403, "model requires moderation. Your input was flagged for violence."), "content_policy"),
    (said(400, "flagged as potentially violating our usage policy", code="invalid_prompt"), "content_policy"),
    (said(429, "You exceeded your current quota", code="insufficient_quota"), "quota"),
    (said(400, "Your credit balance is too low to access the API."), "quota"),
    (said(402, "Insufficient Balance"), "quota"),
    (said(400, "API key not valid.", details=[{"reason": "API_KEY_INVALID"}]), "credential"),
    (said(401, "Incorrect API key"), "credential"),
    (said(403, "not allowed in your country"), "permission"),
    (said(429, "Rate limit reached", type="rate_limit_error"), "rate_limited"),
    (said(400, "max_tokens must be positive"), "request"),
    (said(404, "no such model"), "request"),
    (said(422, "bad"), "request"),
    (said(418, "teapot"), "request"),
    (said(409, "conflict"), "conflict"),
    (said(408, "timeout"), "unavailable"),
    (said(500, "context window"), "unavailable"),
    (said(529, "Overloaded", type="overloaded_error"), "unavailable"),
    (errors.Refused("no", status=400, body=b"<html>maximum context length</html>"), "request"),
    (errors.Refused("no", status=400, body=b"[]"), "request"),
    (errors.Unreachable("x"), "unreachable"),
    (errors.UpstreamTimeout("x", phase="connect", sent=False), "unreachable"),
    (errors.UpstreamTimeout("x", phase="first_byte"), "timeout"),
    (errors.Broken("x"), "broken"),
    (errors.Malformed("x"), "broken"),
    (errors.BudgetExceeded("x"), "budget"),
    (errors.Forbidden("x"), "denied"),
    (errors.RateLimited("x"), "denied"),
    (errors.Untranslatable("x"), "unserved"),
    (errors.NotServed("x"), "unserved"),
    (errors.BadRequest("x"), "request"),
    (errors.PluginFault(), "internal"),
    (ValueError("x"), "internal"),
    (errors.Abandoned(), "left"),
    (asyncio.CancelledError(), "left"),
]


@pytest.mark.parametrize(("error", "kind"), CASES)
def test_every_error_has_its_row(error, kind):
    assert ending(error).kind == kind


def test_the_cases_meet_every_row_and_every_sign():
    kinds = {kind for _, kind in CASES} | {"committed"}
    assert kinds == set(TABLE)
    assert {sign.kind for sign in SIGNS} <= kinds


@pytest.mark.parametrize("error", [error for error, _ in CASES if isinstance(error, errors.UpstreamError)])
def test_after_the_commit_nothing_is_tried_again(error):
    assert ending(error, committed=True) is TABLE["committed"] and TABLE["committed"].retry == "no"


@pytest.mark.parametrize(
    "message",
    [
        "Invalid value: 'Your credit balance is too low'. Supported values are: 'auto'.",
        "Invalid value: '\nYou exceeded your current quota'.",
    ],
)
def test_what_a_client_writes_closes_no_credential(message):
    """Vendors quote the request in their messages."""
    assert ending(said(400, message)).health == "none"


def test_what_was_not_sent_is_never_billed():
    for row in TABLE.values():
        assert row.money == "void" or row.kind in {"timeout", "broken", "committed", "left", "internal"}
