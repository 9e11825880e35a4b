"""The graph under way: each thing once, however many lead to it, and no more than fit."""

from __future__ import annotations

from services.monitoring.lineage.models import MAX_NODES, Edge, Kind, Node


class Graph:
    """Nodes in the order in which they were found, and edges from causes to effects."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self._places: dict[tuple[Kind, str], int] = {}

    def add(self, node: Node) -> int | None:
        """Give the place of a node, which is put there if it is new; None where no more fit."""
        known = self.place_of(node.kind, node.id)
        if known is not None:
            return known
        if len(self.nodes) >= MAX_NODES:
            return None
        self.nodes.append(node)
        self._places[node.kind, node.id] = len(self.nodes) - 1
        return len(self.nodes) - 1

    def place_of(self, kind: Kind, node_id: str) -> int | None:
        """Find a node."""
        return self._places.get((kind, node_id))

    def link(self, cause: int | None, effect: int | None, relation: str) -> None:
        """Say once that one came of the other; nothing where either is not there."""
        if cause is None or effect is None or cause == effect:
            return
        edge = Edge(cause, effect, relation)
        if edge not in self.edges:
            self.edges.append(edge)
