"""The counts of every worker as one: what ModelStatistics answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from typing import Final

from services.inference.engine.statistics import VersionStatistics
from services.inference.workers.commands import Result

LATEST: Final = "last_inference_ms"
NUMBERS: Final = tuple(each.name for each in fields(VersionStatistics) if each.type == "int")


@dataclass(slots=True)
class Counts:
    """One version's counts: `numbers` by their names in VersionStatistics, `batches` likewise by rows."""

    model: str
    version: str
    numbers: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NUMBERS, 0))
    batches: dict[int, dict[str, int]] = field(default_factory=dict)
    memory_bytes: int = 0

    def add(self, document: Result) -> None:
        """Add a worker's counts to these."""
        for name, number in document["numbers"].items():
            before = self.numbers.get(name, 0)
            self.numbers[name] = max(before, number) if name == LATEST else before + number
        for size, tally in document["batches"].items():
            whole = self.batches.setdefault(int(size), {})
            for name, number in tally.items():
                whole[name] = whole.get(name, 0) + number
        self.memory_bytes += document["memory_bytes"]


def document_of(statistics: VersionStatistics, memory_bytes: int) -> Result:
    """Write one worker's counts of a version so that they can travel; `memory_bytes`: what it takes there, 0: none."""
    return {
        "model": statistics.version.model,
        "version": statistics.version.version,
        "numbers": {name: getattr(statistics, name) for name in NUMBERS},
        "batches": {str(size): asdict(tally) for size, tally in statistics.batches.items()},
        "memory_bytes": memory_bytes,
    }


def merged(documents: Iterable[Result]) -> list[Counts]:
    """Add up the counts of all workers by version, in the order in which they come."""
    found: dict[tuple[str, str], Counts] = {}
    for document in documents:
        name = document["model"], document["version"]
        found.setdefault(name, Counts(*name)).add(document)
    return list(found.values())
