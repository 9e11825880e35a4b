"""The recipe keras-mlp in the process that a trainer gives it, with all of its limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from services.trainer.task import CheckpointWritten, Event, Part
from tests.executing import MIB, Ran, Stopped

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_it_trains_there_and_goes_on_from_its_checkpoint_after_an_end(tmp_path: Path) -> None:
    ran = Ran(tmp_path)
    x = np.random.default_rng(0).normal(size=(40, 2))
    color = ["red", "blue"] * 20
    rows = {"x": x[:, 0], "y": x[:, 1], "color": color, "label": x[:, 0] > 0}
    pq.write_table(pa.table(rows), ran.folder.rows(Part.TRAIN))
    told = {"epochs": 4, "checkpoint_every_epochs": 2, "format": "savedmodel"}

    def stop(event: Event) -> None:
        if event == CheckpointWritten(2):
            ran.stopping.stop()

    ran.on_event = stop
    with pytest.raises(Stopped):
        ran.execute("", recipe="keras-mlp", parameters=told, time_limit_s=300, memory_limit_bytes=4096 * MIB)
    again = Ran(tmp_path)  # in the folder as it is
    outcome = again.execute("", recipe="keras-mlp", parameters=told, time_limit_s=300, memory_limit_bytes=4096 * MIB)
    assert [epoch.number for epoch in again.epochs] == [3, 4]
    assert "going on after epoch 2, from the checkpoint" in again.log
    assert (outcome.framework, outcome.classes) == ("TENSORFLOW", ("0", "1"))
    assert (again.folder.artifact / "saved_model.pb").exists()
