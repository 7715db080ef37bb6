"""``gwcore explain`` for the router: candidates, scores, exclusions, order, prices. Sends nothing."""

from __future__ import annotations

from gwcore.call import Call
from gwcore.errors import BadRequest
from gwcore_fallback.journey import Chooser
from gwcore_fallback.plan import Deployment, Group, tagged, utilisation
from gwcore_fallback.session import session_of


def explain(chooser: Chooser, call: Call) -> str:
    """Returns lines for a call; sets ``call.targets`` to the order in which targets would be tried.

    Raises:
        BadRequest: no target serves calls with these tags.
    """
    route = chooser.routes.of(call.model or "")
    now, settings = chooser.clock(), route.settings
    session = None if settings.affinity == "none" else session_of(call, settings.affinity)
    group = chooser.fleet.group(call.model or "", call.targets)
    strict = not group.tags.isdisjoint(call.tags)

    def order(strategy: str, group: Group) -> list[Deployment]:
        members = tagged(group.members, call.tags, strict=strict) if group.tags or strict else group.members
        return chooser.planner.order(strategy, group, members, call=call, now=now, session=session)

    def stage(name: str) -> list[Deployment]:
        routes = chooser.routes
        return order(routes.of(name).settings.strategy, chooser.fleet.group(name, routes.targets(name)))

    ordered = order(settings.strategy, group)
    spread = f"strategy {settings.strategy}"
    lines = [spread if session is None else "by session; which comes first depends on whose key it is, too"]
    usable = [one for one in ordered if one.barred(now, 0) is None]
    for place, one in enumerate(usable, 1):
        lines.append(f"{place}. {_line(chooser, one, call)}")
    for one in group.members:
        if one not in usable:
            reason = "tags" if one not in ordered else one.barred(now, 0)
            lines.append(f"-  {_line(chooser, one, call)}  excluded: {reason}")
    for need, why in (
        ("again", "when none of these answers"),
        ("rate_limited", "at rate limits"),
        ("larger", "when the request is too long"),
        ("permissive", "when the content is refused"),
    ):
        names = route.after[need]
        if names and not (need == "rate_limited" and names == route.after["again"]):
            lines.append(f"{why}: " + "; ".join(_named(chooser, name, stage(name), call) for name in names))
    retry = chooser.config.retry
    lines.append(f"at most {retry.attempts} attempts" + (f" in {settings.deadline:g} s" if settings.deadline else ""))
    chain = usable or [one for name in route.after["again"] for one in stage(name)] or ordered
    if not chain:
        raise BadRequest(f"no target of {call.model!r} serves calls with these tags")
    call.targets = tuple(one.target for one in chain)
    return "\n".join(lines)


def _named(chooser: Chooser, name: str, members: list[Deployment], call: Call) -> str:
    shown = ", ".join(_line(chooser, one, call) for one in members)
    return f"{name} ({shown or 'none serves calls with these tags'})"


def _line(chooser: Chooser, one: Deployment, call: Call) -> str:
    cost = chooser.planner.cost(one, call)
    parts = [one.id, "unpriced" if cost is None else f"about ${cost / 1e9:.6f}", f"weight {one.weight}"]
    if one.tags:
        parts.append(f"tags {' '.join(sorted(one.tags))}")
    if one.requests is not None or one.tokens is not None:
        parts.append(f"used {utilisation(one):.0%}")
    seen = one.ttft[call.stream]
    if seen.count:
        parts.append(f"first token {seen.average * 1000:.0f} ms")
    if one.inflight:
        parts.append(f"{one.inflight} under way")
    return "  ".join(parts)
