"""kill -9 of an outside worker's program at its steps: another does its run, or what it handed in stands, once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.common.jobs import JobState
from tests.holding import held
from tests.outside_workers import LONG_S, SCRIPT, Elsewhere, elsewhere
from tests.postgres import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
# What it asks of the trainer when it is killed: the trainer is about to write that, and does.
STEPS = {
    "its task": ("UPDATE ON trainer.outside_tasks", "OLD.state = 'RUNNING' AND NEW.sequence = 0"),
    "handing in a checkpoint": ("INSERT ON trainer.named_blobs", "NEW.name LIKE 'outside/_/checkpoint/%'"),
    "handing in a version": ("INSERT ON trainer.named_blobs", "NEW.name LIKE 'outside/_/artifact/%'"),
    "completing": ("UPDATE ON trainer.outside_tasks", "NEW.state = 'COMPLETED'"),
}


@pytest.fixture(scope="module")
def database_url(postgres_server: PostgresServer) -> str:
    return postgres_server.clone("trainer")


@pytest.fixture(scope="module")
def place(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    with elsewhere(database_url, tmp_path_factory.mktemp("elsewhere"), trains=False) as found:
        yield found


@pytest.mark.parametrize("step", STEPS)
def test_a_run_whose_worker_is_killed_is_done_all_the_same(place: Elsewhere, database_url: str, step: str) -> None:
    first = place.worker(PENSTOCK_WORKER_NAME="first")
    with place.trainer():
        with held(database_url, *STEPS[step]) as until_held:
            run_id = place.start(code=SCRIPT)
            until_held()
            first.kill()
            first.wait(LONG_S)
        attempt = 1
        if step != "completing":
            attempt = 2
            place.fall_silent(run_id)
            second = place.worker(PENSTOCK_WORKER_NAME="second", PENSTOCK_WORKER_ONCE="true")
            assert second.wait(LONG_S) == 0, place.logs()
        job = place.ended(run_id)
    told = place.told[run_id]
    assert (job.state, job.attempt) == (JobState.COMPLETED, attempt), (job.error, place.logs())
    assert told.artifact == {"model.onnx": b"a model"}
    assert {epoch.number for epoch in told.epochs} == {1, 2}
