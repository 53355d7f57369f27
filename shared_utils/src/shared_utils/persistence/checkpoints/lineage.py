"""Dependencies between checkpoints, which decide what may be removed: pure functions over a thread's rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """What a checkpoint refers to."""

    namespace: str
    checkpoint_id: str
    parent_id: str | None
    versions: Mapping[str, str]
    """Name → version of each value stored for it."""
    inherited: Collection[str] = ()
    """Names of values it has only through its ancestors."""

    @property
    def key(self) -> tuple[str, str]:
        """Which one of its thread."""
        return self.namespace, self.checkpoint_id

    @property
    def parent_key(self) -> tuple[str, str]:
        """Which one it followed; of no node where it followed none."""
        return self.namespace, self.parent_id or ""


Key = tuple[str, str]
"""Namespace, checkpoint id."""


class Thread:
    """All checkpoints of one thread.

    Args:
        nodes: latest id first within each namespace.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = {node.key: node for node in nodes}

    def beyond(self, count: int) -> set[Key]:
        """All but the ``count`` latest of each namespace."""
        namespaces: defaultdict[str, list[Key]] = defaultdict(list)
        for key in self._nodes:
            namespaces[key[0]].append(key)
        return {key for keys in namespaces.values() for key in keys[count:]}

    def needed(self, doomed: Collection[Key]) -> set[Key]:
        """Those of the doomed that one which stays inherits a value from."""
        needed: set[Key] = set()
        for key, node in self._nodes.items():
            if key not in doomed:
                needed |= self._sources(node, doomed)
        return needed.intersection(doomed)

    def unused_values(self, doomed: Collection[Key]) -> set[tuple[str, str, str]]:
        """(Namespace, name, version) of values that only the doomed refer to."""
        lost: set[tuple[str, str, str]] = set()
        used: set[tuple[str, str, str]] = set()
        for key, node in self._nodes.items():
            (lost if key in doomed else used).update((key[0], *item) for item in node.versions.items())
        return lost - used

    def _sources(self, node: Node, doomed: Collection[Key]) -> set[Key]:
        missing = set(node.inherited)
        walked: set[Key] = set()
        parent = self._nodes.get(node.parent_key)
        while missing and parent is not None and parent.key not in walked:
            if parent.key not in doomed and missing <= {*parent.versions, *parent.inherited}:
                break  # it stays, and its own walk finds the rest
            walked.add(parent.key)
            missing.difference_update(parent.versions)
            parent = self._nodes.get(parent.parent_key)
        return walked


def seeds(lineage: Sequence[Node], names: Collection[str]) -> Mapping[str, int]:
    """Name → position in the lineage of the nearest checkpoint that stores it; a name without one is left out.

    Args:
        lineage: parent first, then its parent, and so on.
        names: of values.
    """
    found: dict[str, int] = {}
    for position, node in enumerate(lineage):
        for name in names:
            if name in node.versions:
                found.setdefault(name, position)
    return found
