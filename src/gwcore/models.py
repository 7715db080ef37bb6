"""Resolution of model names: aliases, ordered lists, wildcards, and ``pass``."""

from __future__ import annotations

import asyncio
import bisect
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from gwcore.dialect import Deployment, ModelInfo
from gwcore.errors import UnknownModel
from gwcore.prices import Prices, fits
from gwcore.provider import Target, Upstream

PASS = "pass"  # noqa: S105 - the word of the stack file, not a password
_CACHED_NAMES = 4096
_COMPARED = 32
"""Names with which an unknown one is compared: with all of 500 the loop stood still for 19 ms, and clients ask again and again."""


class Models:
    """The ``models`` section, compiled. An exact name takes precedence over wildcards, longer wildcards over shorter.

    A wildcard's ``*`` matches any text; a ``*`` in its target is replaced by that text: ``gpt-*: openai/gpt-*``.
    """

    def __init__(self, models: Mapping[str, Sequence[str] | str], upstreams: Mapping[str, Upstream]) -> None:
        self.upstreams = upstreams
        models = models or {"*": PASS}
        self._exact = {name: self._targets(name, meaning) for name, meaning in models.items() if "*" not in name}
        self._sorted = sorted(self._exact)
        self._wild = sorted(
            ((n.partition("*")[0], n.partition("*")[2], m) for n, m in models.items() if "*" in n),
            key=lambda w: (-len(w[0]) - len(w[1]), w[0]),
        )
        self._seen: dict[str, tuple[Target, ...]] = {}
        self._names: dict[tuple[str, str], list[str]] = {}
        for name, targets in self._exact.items():
            for target in targets:
                self._names.setdefault((target.upstream.name, target.model), []).append(name)

    def names(self, upstream: str, model: str) -> Sequence[str]:
        """The section's names, wildcards excluded, that may resolve to an upstream's model."""
        return self._names.get((upstream, model), ())

    def resolve(self, name: str) -> tuple[Target, ...]:
        """The targets of ``name``, in order. Raises ``UnknownModel`` with close matches."""
        found = self._exact.get(name) or self._seen.get(name)
        if found is None:
            found = self._wildcard(name)
            # bounded, since clients choose the names
            if len(self._seen) < _CACHED_NAMES:
                self._seen[name] = found
        return found

    def means(self, name: str) -> tuple[Target, ...]:
        """Resolve an operator's name: as a client's, else as ``upstream/model``. Raises ``UnknownModel``."""
        try:
            return self.resolve(name)
        except UnknownModel:
            return (self._as_written(name),)

    def _wildcard(self, name: str) -> tuple[Target, ...]:
        for prefix, suffix, meaning in self._wild:
            if len(name) >= len(prefix) + len(suffix) and name.startswith(prefix) and name.endswith(suffix):
                caught = name[len(prefix) : len(name) - len(suffix)]
                return self._targets(name, meaning, caught)
        asked = name[:200]
        at = max(0, bisect.bisect(self._sorted, asked) - _COMPARED // 2)  # around it are those that begin alike
        close = difflib.get_close_matches(asked, self._sorted[at : at + _COMPARED], n=3)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else "; GET /v1/models lists what there is"
        raise UnknownModel(f"no model named {asked!r}{hint}")

    def _targets(self, name: str, meaning: Sequence[str] | str, caught: str = "") -> tuple[Target, ...]:
        if meaning == PASS:
            return (self._as_written(name),)
        listed = [meaning] if isinstance(meaning, str) else meaning
        return tuple(self._as_written(one.replace("*", caught)) for one in listed)

    def _as_written(self, name: str) -> Target:
        upstream, slash, model = name.partition("/")
        if slash and model and upstream in self.upstreams:
            return Target(self.upstreams[upstream], model)
        declared = [u for u in self.upstreams.values() if name in u.models]
        if declared:
            return Target(declared[0], name)
        if len(self.upstreams) == 1:
            return Target(next(iter(self.upstreams.values())), name)
        raise UnknownModel(
            f"no model named {name[:200]!r}; write it as upstream/model, where upstream is one of: "
            f"{', '.join(self.upstreams) or 'none is configured'}"
        )

    def upstream_for(self, wanted: str | None) -> Iterator[Target]:
        """Targets for an operation without a model: the upstream named by a header, else all in file order."""
        if wanted is None:
            yield from (Target(upstream, "") for upstream in self.upstreams.values())
        elif wanted in self.upstreams:
            yield Target(self.upstreams[wanted], "")
        else:
            raise UnknownModel(f"no upstream named {wanted[:200]!r}")

    def known(self) -> dict[str, tuple[Target, ...]]:
        """The known names that a client may use: aliases, then what upstreams declare."""
        names = {name: targets for name, targets in self._exact.items() if targets}
        for upstream in self.upstreams.values():
            for model in upstream.models:
                names.setdefault(f"{upstream.name}/{model}", (Target(upstream, model),))
        return names

    def expanded(self, names: Callable[[Upstream], Iterable[str]]) -> dict[str, tuple[Target, ...]]:
        """The names that wildcards reach among models that upstreams declare or are known to have.

        Args:
            names: an upstream's known models beyond those it declares.
        """
        has = {
            upstream.name: list(dict.fromkeys([*upstream.models, *names(upstream)]))
            for upstream in self.upstreams.values()
        }
        found = {}
        for prefix, suffix, meaning in self._wild:
            if meaning == PASS:
                asked = [f"{upstream}/{model}" for upstream, models in has.items() for model in models]
                asked += next(iter(has.values())) if len(has) == 1 else []
                reached = [name for name in asked if fits(f"{prefix}*{suffix}", name)]
            else:
                target = self._as_written(meaning if isinstance(meaning, str) else meaning[0])
                before, star, after = target.model.partition("*")
                caught = [
                    model[len(before) : len(model) - len(after)]
                    for model in (has[target.upstream.name] if star else ())
                    if fits(target.model, model)
                ]
                reached = [prefix + one + suffix for one in caught]
            found.update(
                {name: self._wildcard(name) for name in reached if name not in self._exact and name not in found}
            )
        return found

    def wildcards(self) -> dict[str, tuple[Target, ...]]:
        """The wildcards and their targets; for those that ``pass``, the first upstream."""
        passed = tuple(Target(upstream, "*") for upstream in self.upstreams.values())[:1]
        named = [(f"{prefix}*{suffix}", meaning) for prefix, suffix, meaning in self._wild]
        return {name: passed if meaning == PASS else self._targets(name, meaning, "*") for name, meaning in named}

    def targets(self) -> list[Target]:
        """Every target the stack names, without those reached only by a wildcard."""
        return [target for targets in self.known().values() for target in targets]

    async def look_up(self, prices: Prices) -> list[str]:
        """Load the prices of every target off the loop; returns the unpriced ones, as ``upstream/model``."""
        return await asyncio.to_thread(prices.warm, self.targets(), self.upstreams.values())

    def listing(
        self, prices: Prices | None = None, more: Mapping[str, tuple[Target, ...]] | None = None
    ) -> list[ModelInfo]:
        """The models of :meth:`known` and ``more``, with their cards from ``prices``."""
        return [
            ModelInfo(
                name,
                targets[0].upstream.name,
                deployments=tuple(
                    Deployment(
                        target.upstream.name,
                        target.upstream.provider.name,
                        target.model,
                        prices.card(target) if prices is not None else None,
                    )
                    for target in targets
                ),
            )
            for name, targets in {**self.known(), **(more or {})}.items()
        ]
