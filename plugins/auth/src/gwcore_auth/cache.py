"""In-memory cache of credentials: keyed by full digests only, invalidated by subject, bounded."""

from __future__ import annotations

from gwcore_auth.grants import Grant

Digest = bytes
Subject = tuple[str, str]


class GrantCache:
    """Grants by the SHA-256 of the whole credential.

    A load takes :attr:`epoch` before it reads and passes it to :meth:`put`, which discards the result if anything has
    changed meanwhile, so that a slow reader never restores a revoked grant.
    """

    def __init__(self, size: int) -> None:
        self.grants: dict[Digest, Grant] = {}
        self.for_end_user: dict[tuple[Digest, str], Grant] = {}
        self.unknown: dict[Digest, None] = {}
        self.epoch = 0
        self._size = size
        self._by_subject: dict[Subject, set[Digest]] = {}

    def put(self, digest: Digest, grant: Grant | None, epoch: int) -> None:
        """Cache a grant, or that there is none."""
        if epoch != self.epoch:
            return
        if grant is None:
            if len(self.unknown) >= min(self._size, 10_000):
                self.unknown.pop(next(iter(self.unknown)))
            self.unknown[digest] = None
            return
        if len(self.grants) >= self._size and digest not in self.grants:
            self._forget(next(iter(self.grants)))
        self.grants[digest] = grant
        for subject in grant.depends:
            self._by_subject.setdefault(subject, set()).add(digest)

    def put_for(self, digest: Digest, end_user: str, grant: Grant, epoch: int) -> None:
        """Cache a grant as modified for one end user."""
        if epoch != self.epoch:
            return
        if len(self.for_end_user) >= self._size:
            self.for_end_user.pop(next(iter(self.for_end_user)))
        self.for_end_user[digest, end_user] = grant

    def drop(self, subject: Subject) -> None:
        """After a change: drop the grants that depend on it, and all entries of end users and unknown credentials."""
        self.epoch += 1
        self.unknown.clear()
        self.for_end_user.clear()
        for digest in list(self._by_subject.get(subject, ())):
            self._forget(digest)

    def clear(self) -> None:
        """Drop everything."""
        self.epoch += 1
        for kept in (self.grants, self.for_end_user, self.unknown, self._by_subject):
            kept.clear()

    def _forget(self, digest: Digest) -> None:
        grant = self.grants.pop(digest, None)
        for subject in grant.depends if grant else ():
            known = self._by_subject.get(subject)
            if known is not None:
                known.discard(digest)
                if not known:
                    del self._by_subject[subject]
