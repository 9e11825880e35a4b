"""A run's rows: what its data source names, divided and written into its folder.

What the work of runs calls:

    given = datasets.materialise(run_id, source, model, split, folder, stopping, label="label")
    ...                                    # given.dataset, given.split_id, given.counts go into the run's row
    datasets.release(connection, run_id)   # in the transaction that ends the run, however it ends

A source is `NAME` (the newest version that is READY), `NAME/VERSION`, `traffic` or `traffic:7d` (labelled live traffic of
the model of the last 7 days; a new version of the dataset MODEL-traffic is built of it, and waited for), or several of
these joined by `+`: their rows are appended, with the columns that they have in common. Each is divided by itself, so
that rows which an earlier run of the same split held out are held out again.

The columns that traffic has beside features and label (prediction, confidence, event_time, inference_id, model_version)
can be split by, and are left out of what is written: nothing is to be learned from them.

Called again for the same run (a rescue), it reads the versions that it read before, also if there are newer ones now,
and also if somebody has deleted them by force meanwhile: from the first call on until `release`, the run refers to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from services.common.jobs import JobConnection
from services.trainer.datasets.splits import Split
from services.trainer.task import Part, RunFolder, Stopping


@dataclass(frozen=True, slots=True)
class Materialised:
    """What lies in a run's folder.

    Attributes:
        dataset: NAME/VERSION; several are joined by `+`.
        split_id: of the split; several are joined by `+`, in the same order.
        counts: rows by part; a part without rows has no file.
        columns: those written, in order.
    """

    dataset: str
    split_id: str
    counts: Mapping[Part, int]
    columns: tuple[str, ...]


class Datasets(Protocol):
    """Datasets, as runs see them; opened by `services.trainer.datasets.assembly.open_datasets`."""

    def materialise(
        self,
        run_id: UUID,
        source: str,
        model: str,
        split: Split | None,
        folder: RunFolder,
        stopping: Stopping,
        *,
        label: str = "label",
    ) -> Materialised:
        """Write `folder.rows(part)` for every part that has rows.

        Without a split it is by seed 0: 0.7 to learn from, 0.15 to stop by, 0.15 to judge by, evenly over the label's
        values where they are classes (text, booleans, or at most 20 different whole numbers).

        Raises:
            TrainingFailed: INVALID_DATA: no such dataset or version, or it is not READY; no column in common, or of
                types that do not go together; a split that leaves a part empty; no labelled traffic. INVALID_PARAMETERS:
                a source or a split that cannot be meant.
            Unavailable: the database, the blob store or monitoring gives no answer; the same again may help.
            Stopped: the run is to end.
        """
        ...

    def refer(self, connection: JobConnection, run_id: UUID, source: str) -> None:
        """Optional, when a run is created: hold what its source names from then on, so that a dataset deleted while
        the run waits is there when it begins. Names that are not known are left for `materialise` to refuse.
        """
        ...

    def release(self, connection: JobConnection, run_id: UUID) -> None:
        """Let go of what a run refers to, in the transaction that ends it."""
        ...
