"""Which images of a name may be seen: verdicts on manifests and blobs, from those on their tags and digests.

A rule on a tag reaches the manifest that it leads to, and so every other tag of it. What a blocked image alone is made of (children of an index,
config, layers) is blocked with it; what an allowed image is made of as well stays free. Under an allowlist it is the other way round: what an allowed
image is made of is allowed. The graph (graphs.py) is read only where a rule can tell versions of the name apart.
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
    """Verdicts on what a name holds, by one policy at one moment. `published`: when a manifest or a blob was pushed, by its digest.

    Each verdict is worked out twice where a rule only tells what it would do: as it is, and as it would be if that rule were in force.
    """

    def __init__(self, repository: str, name: str, graph: Graph, judge: Judge, published: Callable[[str], float | None]) -> None:
        self._repository, self._name, self._graph = repository, name, graph
        self._judge, self._published = judge, published
        self._own: dict[str, list[Decision]] = {}
        self._verdicts: tuple[dict[str, Decision], dict[str, Decision]] = ({}, {})
        self._tells = False

    def tag(self, tag: str, digest: str) -> Decision:
        """The tag's own verdict, then that of what it leads to."""
        own = self._ask(tag, digest)
        return self._answer(lambda strict: own if is_block(own, strict) else self._manifest(digest, strict))

    def manifest(self, digest: str) -> Decision:
        return self._answer(lambda strict: self._manifest(digest, strict))

    def blob(self, digest: str, is_read: bool) -> Decision:
        """`is_read`: its bytes are wanted, and not only whether it is there, which a push asks before there is a manifest."""
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
        own = self._own_of(digest)
        block = next((decision for decision in own if is_block(decision, strict)), None)
        if block:
            return block
        above = [self._manifest(holder, strict) for holder in self._graph.holders.get(digest, ())]
        if digest in self._graph.digests:  # a manifest whose bytes were pushed as a blob too
            above.append(self._manifest(digest, strict))
        if not above:
            return own[0] if is_read else ALLOWED
        return combined(own, above, False, strict)

    def _manifest(self, digest: str, strict: bool) -> Decision:
        """Owners first, without recursion: whoever may push decides how deep indexes are nested."""
        verdicts, todo, opened = self._verdicts[strict], [digest], set[str]()
        while todo:
            current = todo[-1]
            if current not in verdicts:
                own, parents = self._own_of(current), self._graph.parents.get(current, ())
                block = next((decision for decision in own if is_block(decision, strict)), None)
                waiting = [] if block else [parent for parent in parents if parent not in verdicts and parent not in opened]
                if waiting:
                    opened.add(current)
                    todo += waiting
                    continue
                tagged = current in self._graph.tags
                verdicts[current] = block or combined(own, [verdicts[parent] for parent in parents if parent in verdicts], tagged, strict)
            todo.pop()
        return verdicts[digest]

    def _own_of(self, digest: str) -> list[Decision]:
        """On the digest, and on all tags that lead to it."""
        found = self._own.get(digest)
        if found is None:
            versions = [*self._graph.tags.get(digest, ()), digest, *filter(None, [self._graph.aliases.get(digest)])]
            found = self._own[digest] = [self._ask(version, digest) for version in versions]
        return found

    def _ask(self, version: str, digest: str) -> Decision:
        asked = package(self._repository, self._name, version, digest, self._published(digest))
        alias = self._graph.aliases.get(digest)
        decision = self._judge(replace(asked, digests=(digest, alias)) if alias else asked)
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
