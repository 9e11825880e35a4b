"""All that a lineage goes through: a real registry (but for its validator), a real PostgreSQL, a scripted trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from penstock.api.monitoring.v1 import lineage_pb2 as pb
from tests import quick_registry
from tests.monitoring import TIMEOUT_S
from tests.quick_registry import Registry
from tests.registry import settings_for
from tests.retraining import Retraining, serve_retraining
from tests.trainer import ScriptedTrainer, serve_trainer


@dataclass(frozen=True, slots=True)
class Suite:
    """All that a lineage goes through."""

    registry: Registry
    trainer: ScriptedTrainer
    monitoring: Retraining


@contextmanager
def suite_of(clone_database: Callable[[str], str], tmp_path: Path) -> Iterator[Suite]:
    """Run them on databases of their own."""
    with (
        quick_registry.running(settings_for(clone_database("registry"), tmp_path)) as registry,
        serve_trainer() as trainer,
        serve_retraining(
            clone_database("monitoring"), registry_address=registry.address, trainer_address=trainer.address
        ) as monitoring,
    ):
        yield Suite(registry, trainer, monitoring)


class Lineage:
    """An answer, to be asked."""

    def __init__(self, answer: pb.GetLineageResponse) -> None:
        self.nodes = list(answer.nodes)
        self.said = {(self._name(edge.from_node), edge.relation, self._name(edge.to_node)) for edge in answer.edges}

    def _name(self, index: int) -> str:
        return self.nodes[index].id

    def of(self, kind: str) -> list[pb.LineageNode]:
        """The nodes of a kind."""
        return [node for node in self.nodes if pb.LineageKind.Name(node.kind) == f"LINEAGE_KIND_{kind}"]


def ask(here: Retraining, **subject: str) -> Lineage:
    """Ask for the lineage of a subject."""
    return Lineage(here.lineage.GetLineage(pb.GetLineageRequest(**subject), timeout=TIMEOUT_S))
