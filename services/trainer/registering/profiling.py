"""What the rows that a run learned from look like, kept by monitoring: live traffic is compared with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq

from penstock import Client
from penstock.errors import PenstockError
from penstock.profiles import Columns
from services.common.errors import FailedPrecondition, Unavailable
from services.trainer.task import Outcome, Stopping

MIN_ROWS: Final = 50
"""Of fewer, monitoring makes none."""


class ReferenceProfiles:
    """Has monitoring make profiles."""

    def __init__(self, open_client: Callable[[], Client], *, monitoring: bool = True) -> None:
        """`monitoring`: whether there is one."""
        self._open_client = open_client
        self._monitoring = monitoring

    def profile(self, stopping: Stopping, model: str, version: str, outcome: Outcome, rows: Path) -> str:
        """Make a profile of the rows in a Parquet file, attach it to a version, and give its id.

        It has the columns that the version takes, and the label; the same version again gives the first profile.

        Raises:
            FailedPrecondition: there is no monitoring, too few rows, or monitoring refuses them (PROFILE_REFUSED).
            Unavailable: monitoring gives no answer.
            Stopped: the run is to end.
        """
        if not self._monitoring:
            raise _refused("the trainer knows of no monitoring (PENSTOCK_MONITORING_ADDRESS)")
        count = pq.read_metadata(rows).num_rows
        if count < MIN_ROWS:
            raise _refused(f"{count} rows are too few; at least {MIN_ROWS} are needed")
        names = pq.read_schema(rows).names
        taken = {column.name for column in outcome.features}
        columns = Columns(
            ignored=[name for name in names if taken and name not in taken and name != outcome.label],
            label=outcome.label if outcome.label in names else "",
        )
        with self._open_client() as client:
            stopping.on_stop(client.close)
            try:
                made = client.monitoring.profiles.create(
                    model,
                    version,
                    rows,
                    columns=columns,
                    row_format="parquet",
                    note="the rows that it learned from",
                    progress=lambda *_: stopping.check(),
                    request_id=_request_id(model, version),
                )
            except PenstockError as error:
                stopping.check()
                if error.reason == "REQUEST_ID_REUSED":  # an attempt before made it, of rows written otherwise
                    return client.monitoring.profiles.of_version(model, version).id
                said = f"monitoring made no profile: {error.message} ({error.reason})"
                if error.retryable or error.code.name in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"):
                    raise Unavailable(said, reason="MONITORING_UNAVAILABLE") from error
                raise _refused(said) from error
            finally:
                stopping.forget(client.close)
        return made.id


def _request_id(model: str, version: str) -> str:
    return f"training-{hashlib.sha256(repr((model, version)).encode()).hexdigest()[:32]}"


def _refused(sentence: str) -> FailedPrecondition:
    return FailedPrecondition(sentence, reason="PROFILE_REFUSED")
