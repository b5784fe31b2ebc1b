"""Which images of a name may be seen: verdicts on manifests and blobs, from those on their tags and digests.

A rule on a tag reaches the manifest that it leads to, and so every other tag of it. What a blocked image alone is made of (children of an index,
config, layers) is blocked with it; what an allowed image is made of as well stays free. Under an allowlist it is the other way round: what an allowed
image is made of is allowed. What was deleted while it was blocked goes on blocking, and allows nothing (deletions.py). Twins, the same bytes by
digests of several algorithms, are one thing with the rules of all their digests (twins.py). The graph (graphs.py) is read only where a rule can tell
versions of the name apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from noraflask.ecosystems.docker import ECOSYSTEM
from noraflask.formats.docker.graphs import Graph
from noraflask.services.curation.model import Decision, Package

Judge = Callable[[Package], Decision]
ALLOWED = Decision(True)
TOO_LARGE = Decision(False, "images", reason="the name holds more layers than the gate can look through; part its images over several names")
"""A gate that cannot decide says no."""


class Images:
    """Verdicts on what a name holds, by one policy at one moment. `published`: when a manifest or a blob was pushed, by its digest. `other`: the
    sha512 of what is only known by its sha256, where a rule speaks of sha512.

    Each verdict is worked out twice where a rule only tells what it would do: as it is, and as it would be if that rule were in force.
    """

    def __init__(
        self,
        repository: str,
        name: str,
        graph: Graph,
        judge: Judge,
        published: Callable[[str], float | None],
        other: Callable[[str], str | None] | None = None,
    ) -> None:
        self._repository, self._name, self._graph = repository, name, graph
        self._judge, self._published, self._other = judge, published, other
        self._twins: dict[str, list[str]] = {}
        for twin, digest in graph.aliases.items():
            self._twins.setdefault(digest, []).append(twin)
        self._own: dict[str, list[Decision]] = {}
        self._verdicts: tuple[dict[str, Decision], dict[str, Decision]] = ({}, {})
        self._tells = False

    def tag(self, tag: str, digest: str) -> Decision:
        """The tag's own verdict, then that of what it leads to."""
        digest = self._graph.same(digest)
        own = self._ask(tag, digest)
        return self._answer(lambda strict: own if is_block(own, strict) else self._manifest(digest, strict))

    def own_tag(self, tag: str, digest: str) -> Decision:
        """The tag's own verdict alone."""
        return self._ask(tag, self._graph.same(digest))

    def deleted(self, digest: str) -> Decision:
        """Of what is deleted, or was; where the name is too large to be looked through, its own verdict alone."""
        digest = self._graph.same(digest)
        if self._graph.is_too_large:
            return self._block_of(digest, strict=True) or self._own_of(digest)[0]
        return self.manifest(digest)

    def manifest(self, digest: str) -> Decision:
        digest = self._graph.same(digest)
        return self._answer(lambda strict: self._manifest(digest, strict))

    def blob(self, digest: str, is_read: bool, twin: str | None = None) -> Decision:
        """`is_read`: its bytes are wanted, and not only whether it is there, which a push asks before there is a manifest. `twin`: its sha256."""
        asked, digest = digest, twin or self._graph.same(digest)
        if asked != digest and asked not in self._twins.get(digest, ()):
            self._twins.setdefault(digest, []).append(asked)
            self._own.pop(digest, None)
        return self._answer(lambda strict: self._blob(digest, is_read, strict))

    def _answer(self, find: Callable[[bool], Decision]) -> Decision:
        if self._graph.is_too_large:
            return TOO_LARGE
        real = find(False)
        if not real.allowed or not self._tells:
            return real
        told = find(True)
        return replace(told, allowed=True, would_block=True) if is_refused(told, strict=True) else told

    def _blob(self, digest: str, is_read: bool, strict: bool) -> Decision:
        own, block = self._own_of(digest), self._block_of(digest, strict)
        if block:
            return block
        holders = (holder for one in self._digests_of(digest) for holder in self._graph.holders.get(one, ()))
        above = self._counting(((holder, self._manifest(holder, strict)) for holder in holders), strict)
        if digest in self._graph.digests or digest in self._graph.gone:  # a manifest whose bytes were pushed as a blob too
            above += self._counting([(digest, self._manifest(digest, strict))], strict)
        if not above:
            return own[0] if is_read else ALLOWED
        return combined(own, above, False, strict)

    def _manifest(self, digest: str, strict: bool) -> Decision:
        """Owners first, without recursion: whoever may push decides how deep indexes are nested."""
        verdicts, todo, opened = self._verdicts[strict], [digest], set[str]()
        while todo:
            current = todo[-1]
            if current not in verdicts:
                own, block, parents = self._own_of(current), self._block_of(current, strict), self._graph.parents.get(current, ())
                waiting = [] if block else [parent for parent in parents if parent not in verdicts and parent not in opened]
                if waiting:
                    opened.add(current)
                    todo += waiting
                    continue
                tagged = current in self._graph.tags
                above = self._counting(((parent, verdicts[parent]) for parent in parents if parent in verdicts), strict)
                verdicts[current] = block or combined(own, above, tagged, strict)
            todo.pop()
        return verdicts[digest]

    def _counting(self, owners: Iterable[tuple[str, Decision]], strict: bool) -> list[Decision]:
        """Their verdicts; of owners that were deleted only those that block."""
        graph = self._graph
        return [verdict for owner, verdict in owners if owner not in graph.gone or owner in graph.digests or is_block(verdict, strict)]

    def _own_of(self, digest: str) -> list[Decision]:
        """On all its digests, and on all tags that lead to it."""
        found = self._own.get(digest)
        if found is None:
            versions = [*self._graph.tags.get(digest, ()), *self._digests_of(digest)]
            found = self._own[digest] = [self._ask(version, digest) for version in versions]
        return found

    def _block_of(self, digest: str, strict: bool) -> Decision | None:
        """What blocks the thing itself; also by a tag that led to it when it was deleted, which can do nothing else."""
        gone = (self._ask(tag, digest) for tag in self._graph.gone.get(digest, ()))
        return next((decision for decision in (*self._own_of(digest), *gone) if is_block(decision, strict)), None)

    def _digests_of(self, digest: str) -> list[str]:
        """All digests of the same bytes, as far as rules speak of them."""
        twins = self._twins.get(digest, [])
        if self._other is not None and not twins:
            twins = self._twins[digest] = [twin for twin in (self._other(digest),) if twin]
        return [digest, *twins]

    def _ask(self, version: str, digest: str) -> Decision:
        digests = self._digests_of(digest)
        moments = [moment for moment in map(self._published, digests) if moment is not None]
        asked = package(self._repository, self._name, version, digest, min(moments, default=None))
        decision = self._judge(replace(asked, digests=tuple(digests)) if len(digests) > 1 else asked)
        self._tells = self._tells or decision.would_block
        return decision


def combined(own: Iterable[Decision], above: list[Decision], tagged: bool, strict: bool = False) -> Decision:
    """Of verdicts on a thing itself and on what it is part of, none of the former a block.

    An allowlist's refusal is undone by any allowed owner. A blocked owner blocks what belongs to no allowed one, unless it has a tag of its own.
    """
    own = list(own)
    accepted = next((decision for decision in own if not is_refused(decision, strict)), None)
    free = next((decision for decision in above if not is_refused(decision, strict)), None)
    blocked = next((decision for decision in above if is_block(decision, strict)), None)
    if accepted and (tagged or free or not blocked):
        return accepted
    return free or blocked or own[0]


def is_refused(decision: Decision, strict: bool = False) -> bool:
    """`strict`: also by what only tells what it would do."""
    return not decision.allowed or (strict and decision.would_block)


def is_block(decision: Decision, strict: bool = False) -> bool:
    """A refusal for what the thing is. That it is on no allowlist says nothing against it when something else vouches for it."""
    return is_refused(decision, strict) and decision.filter != "allowlist"


def package(repository: str, name: str, version: str | None = None, digest: str | None = None, published: float | None = None) -> Package:
    """In the form that rules know."""
    shown = ECOSYSTEM.same_version(version) if version else None
    digests = (digest,) if digest else ()
    return Package("docker", ECOSYSTEM.same_name(name), shown, repository, version is None, digests, published, None, True)
