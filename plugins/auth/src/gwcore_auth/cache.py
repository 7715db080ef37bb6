"""What is known of credentials, in memory: full digests only, dropped by subject, bounded."""

from __future__ import annotations

from gwcore_auth.grants import Grant

Digest = bytes
Subject = tuple[str, str]


class GrantCache:
    """Grants by the SHA-256 of the whole credential.

    A load takes :attr:`epoch` before it reads and hands it to :meth:`put`: what changed meanwhile is not kept, so a slow
    reader never brings back what was revoked.
    """

    def __init__(self, size: int) -> None:
        self.grants: dict[Digest, Grant] = {}
        self.for_end_user: dict[tuple[Digest, str], Grant] = {}
        self.unknown: dict[Digest, None] = {}
        self.epoch = 0
        self._size = size
        self._by_subject: dict[Subject, set[Digest]] = {}

    def put(self, digest: Digest, grant: Grant | None, epoch: int) -> None:
        """Keep a grant, or that there is none."""
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
        """Keep what a grant becomes for one end user."""
        if epoch != self.epoch:
            return
        if len(self.for_end_user) >= self._size:
            self.for_end_user.pop(next(iter(self.for_end_user)))
        self.for_end_user[digest, end_user] = grant

    def drop(self, subject: Subject) -> None:
        """Something changed: forget whatever was made of it, and what was thought unknown."""
        self.epoch += 1
        self.unknown.clear()
        self.for_end_user.clear()
        for digest in list(self._by_subject.get(subject, ())):
            self._forget(digest)

    def clear(self) -> None:
        """Forget everything."""
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
