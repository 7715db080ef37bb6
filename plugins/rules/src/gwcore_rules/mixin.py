"""``LLMChoiceMixin``: lets an agent choose a model, in this process or by a running gateway."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import orjson

from gwcore.aim import TAGS, read_tags
from gwcore.assemble import assemble
from gwcore.call import Call
from gwcore.catalog import Catalog
from gwcore.dialect import Dialect, Route
from gwcore.errors import GatewayError
from gwcore.reply import Reply
from gwcore.resources import Resources
from gwcore.stackfile import load
from gwcore_rules.facts import MAX_COST, METADATA, TASK_TYPE
from gwcore_rules.plugin import PLAIN, Rules
from gwcore_rules.tell import estimated

_TIMEOUT = 10.0


class NoChoice(LookupError):
    """No model was chosen: no rule applies, none is within the cost limit, or the key may use none.

    Attributes:
        code: the gateway's error code, such as ``cost_cap_exceeded`` or ``unknown_model``.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class LLMChoiceMixin:
    """Gives an agent :meth:`llm_choice`. Set either ``llm_rules`` or ``llm_gateway``, on the class or on the object.

    Attributes:
        llm_rules: path of a stack file with ``rules``, or of a rule file whose models are ``provider/model``; evaluated
            in this process, with the installed prices. Read again when it changes.
        llm_gateway: base URL of a running gateway to use instead; it chooses no model that ``llm_key`` may not use.
        llm_key: key for the gateway.
    """

    llm_rules: str | Path | None = None
    llm_gateway: str | None = None
    llm_key: str | None = None

    def llm_choice(
        self,
        *,
        prompt: str | None = None,
        task_type: str | None = None,
        max_cost_usd: float | str | None = None,
        messages: Sequence[Mapping[str, Any]] | None = None,
        tags: Sequence[str] = (),
        **fields: Any,
    ) -> dict[str, Any]:
        """The model for a request, and the settings to send.

        Args:
            prompt: text of the user.
            task_type: the task's name in the rules; without one, rules decide by the rest of the request.
            max_cost_usd: limit of the request's estimated cost.
            messages: instead of a prompt, as for chat completions.
            tags: as in ``x-gwcore-tags``.
            fields: further members of the request that rules or estimates use: ``tools``, ``max_tokens`` …

        Returns:
            ``model``, ``temperature`` and ``max_tokens`` (``None``: leave them out), ``estimated_cost_usd`` (``None``: no
            price is known) and ``reason``.

        Raises:
            NoChoice: no model was chosen.
            TypeError: both or neither of prompt and messages, or neither ``llm_rules`` nor ``llm_gateway`` is set.
            httpx2.HTTPError: the gateway does not answer.
        """
        if (prompt is None) == (messages is None):
            raise TypeError("llm_choice takes a prompt or messages")
        said = [{"role": "user", "content": prompt}] if messages is None else [*messages]
        wanted = {TASK_TYPE: task_type, MAX_COST: None if max_cost_usd is None else str(max_cost_usd)}
        metadata = {name: value for name, value in wanted.items() if value is not None}
        document = {"model": "auto", **fields, "messages": said, METADATA: {**(fields.get(METADATA) or {}), **metadata}}
        headers = {TAGS.decode(): ",".join(tags)} if tags else {}
        found = self._asked(document, headers) if self.llm_gateway else self._worked_out(document, headers)
        return {name: found[name] for name in _KEYS}

    def _asked(self, document: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        key = {"authorization": f"Bearer {self.llm_key}"} if self.llm_key else {}
        address = f"{str(self.llm_gateway).rstrip('/').removesuffix('/v1')}/estimate"
        answer = httpx2.post(address, json=document, headers={**headers, **key}, timeout=_TIMEOUT)
        try:
            body = answer.json()
        except ValueError:
            body = None
        if answer.status_code == httpx2.codes.OK and isinstance(body, dict) and body.keys() >= set(_KEYS):
            return body
        error = body.get("error") if isinstance(body, dict) else None
        told = error if isinstance(error, dict) else {}
        raise NoChoice(
            str(told.get("message") or f"{address} answered {answer.status_code}, and no estimate"),
            str(told.get("code") or ""),
        )

    def _worked_out(self, document: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        if self.llm_rules is None:
            raise TypeError("set llm_rules to a file, or llm_gateway to the URL of a gateway")
        try:
            return _advisor(Path(self.llm_rules)).estimate(document, headers)
        except GatewayError as error:
            raise NoChoice(error.message, error.code) from None


_KEYS = ("model", "temperature", "max_tokens", "estimated_cost_usd", "reason")


class _Advisor:
    """The rules of a file, outside any gateway."""

    def __init__(self, path: Path) -> None:
        stack = assemble(_stack(path), Catalog(), Resources(), os.environ)
        found = [placed.plugin for placed in stack.placed if isinstance(placed.plugin, Rules)]
        if not found:
            raise NoChoice(f"{path.name} has no rules in its stack")
        self.plugin = found[0]
        self.dialect, self.route = next(
            (dialect, route) for dialect, route in self.plugin.client_routes() if dialect.name == PLAIN
        )

    def estimate(self, document: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
        """The answer of ``POST /estimate``. Raises ``GatewayError``."""
        plugin = self.plugin
        plugin.refresh()
        call = _call(self.dialect, self.route, document, headers)
        facts = plugin.facts(call)
        choice = plugin.chooser.choose(plugin.book.first(facts), facts, priced=True)
        found: dict[str, Any] = orjson.loads(orjson.dumps(estimated(choice, plugin.chooser)))
        return found


_advisors: dict[Path, tuple[int, _Advisor]] = {}


def _advisor(path: Path) -> _Advisor:
    """One per file, rebuilt when it changes; an invalid edit keeps the previous one. Raises ``NoChoice``."""
    try:
        where, stamp = path.resolve(), path.stat().st_mtime_ns
    except OSError as error:
        raise NoChoice(f"{path}: {error.strerror}") from None
    before, advisor = _advisors.get(where, (None, None))
    if before != stamp or advisor is None:
        try:
            advisor = _Advisor(path)
        except GatewayError:
            if advisor is None:
                raise
        _advisors[where] = stamp, advisor
    return advisor


def _stack(path: Path) -> str | Path:
    """A stack file unchanged; for a rule file, a stack with one upstream per provider, of the same name."""
    data = load(path).data
    if isinstance(data, dict) and "gwcore" in data:
        return path
    names: list[str] = []
    rules = data.get("rules") if isinstance(data, dict) else None
    for rule in rules if isinstance(rules, list) else ():
        for key in ("model", "cheaper") if isinstance(rule, dict) else ():
            value = rule.get(key) or []
            names += [value] if isinstance(value, str) else value
    providers = {str(name).partition("/")[0] for name in names if "/" in str(name)}
    stack = {
        "gwcore": 1,
        "upstreams": {name: {"provider": name} for name in sorted(providers)},
        "stack": [{"rules": {"file": str(path.resolve())}}],
    }
    return orjson.dumps(stack).decode() + "\n"


def _call(dialect: Dialect, route: Route, document: dict[str, Any], headers: dict[str, str]) -> Call:
    call = Call(
        id="gw-choice",
        dialect=dialect,
        route=route,
        reply=Reply(_nowhere),
        headers=[(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()],
        raw=orjson.dumps(document),
        document=document,
        model=str(document["model"]),
        stream=bool(document.get("stream")),
    )
    read_tags(call)
    return call


async def _nowhere(_message: object) -> None:
    return None
