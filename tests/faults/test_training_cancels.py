"""Runs that somebody ends, whose process dies or whose lease is lost, at each step: one whole version at most."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest

import penstock
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.api.trainer.v1 import training_pb2 as pb
from tests.holding import held
from tests.integration.test_dataset_builds import recorded
from tests.integration.test_training_runs import WAITS
from tests.monitoring import connect
from tests.postgres import PostgresServer
from tests.serving import wait_until
from tests.training import QUICK, TrainingPlace, recipes, training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SEARCH: dict[str, Any] = {
    "recipe": "search",
    "parameters": {
        "recipe": "sklearn", "trials": 10_000, "parameters": {"estimator": "LogisticRegression"},
        "space": {"estimator_parameters.C": {"type": "float", "low": 0.01, "high": 100, "log": True}},
    },
    "data_source": "flowers",
}  # fmt: skip
LONG = [{"recipe": "script", "parameters": {"code": WAITS}}, SEARCH]
# Where a run stands still: whose database, at which step, and which rows.
STEPS = {
    "dividing rows": ("trainer", "INSERT ON trainer.dataset_splits", "true"),
    "being registered": ("registry", "INSERT ON registry.versions", "true"),
    "waiting for the validator": ("registry", "UPDATE ON registry.versions", "NEW.state = 'READY'"),
    "being profiled": ("monitoring", "INSERT ON monitoring.profiles", "true"),
    "being judged": ("registry", "INSERT ON registry.evaluations", "true"),
}
VALIDATING = {"being registered", "waiting for the validator", "being profiled", "being judged"}
STEAL = """
UPDATE trainer.training_runs SET token = token + 1, attempt = attempt + 1, worker_id = 'another',
    lease_expire_time = clock_timestamp() + interval '1 hour' WHERE job_id = %s RETURNING *
"""
GIVE_UP = "UPDATE trainer.training_runs SET lease_expire_time = clock_timestamp() WHERE job_id = %s RETURNING job_id"
FAILS = "def train(context):\n    raise ValueError('enough')"


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingPlace]:
    """All services, and a trainer that works on one run at a time."""
    folder = tmp_path_factory.mktemp("trainer")
    with training(postgres_server, folder, trainer_scripts_enabled=True, poll_interval_ms=200) as place:
        place.upload_flowers(folder)
        yield place


def ended(place: TrainingPlace, run: pb.TrainingRun) -> pb.TrainingRun:
    """Cancel a run, and wait until it is over and has left nothing: neither a process nor a folder."""
    client = place.client.training
    client.cancel_run(run.id)
    found = client.wait_run(run.id)
    assert found.state == pb.TRAINING_RUN_STATE_CANCELLED, found.message
    assert client.cancel_run(run.id).state == pb.TRAINING_RUN_STATE_CANCELLED, "asking twice is asking once"
    leaves_nothing(place)
    return found


def leaves_nothing(place: TrainingPlace) -> None:
    """See that no process and no folder of a run is there, or is in a moment."""
    folder = place.settings.trainer_work_folder
    assert folder is not None
    wait_until(lambda: not list(folder.rglob("penstock-run-*")) and not recipes())


def versions(place: TrainingPlace, model: str) -> list[registry.ModelVersion]:
    """What the registry has of a model, if it has that at all."""
    try:
        return list(place.client.registry.list_versions(model))
    except penstock.NotFound:
        return []


def whole(place: TrainingPlace, run: pb.TrainingRun) -> None:
    """See that the registry has no version of a run, or one that is whole and that the run names."""
    wait_until(lambda: all(each.state == registry.VERSION_STATE_READY for each in versions(place, run.model)))
    for version in versions(place, run.model):
        assert (version.version, version.training_run_id) == (run.new_version, run.id)
        assert version.stage == registry.STAGE_CANDIDATE
    assert len(versions(place, run.model)) <= 1


@pytest.mark.parametrize("step", STEPS)
def test_a_run_is_ended_at_any_step_and_leaves_no_version_that_is_not_whole(place: TrainingPlace, step: str) -> None:
    whose, when, which = STEPS[step]
    client, model = place.client.training, f"ended-{step.replace(' ', '-')}"
    with held(place.databases[whose], when, which) as until_held:
        run = client.create_run(model, **QUICK)
        until_held()
        state = pb.TRAINING_RUN_STATE_VALIDATING if step in VALIDATING else pb.TRAINING_RUN_STATE_RUNNING
        assert client.get_run(run.id).state == state
        if whose == "trainer":  # its transaction is let end first, which takes no time
            client.cancel_run(run.id)
        else:
            ended(place, run)
            until_held()  # still: it did not wait for the answer
    last = ended(place, run)
    assert last.validation_passed is False or not last.HasField("validation_passed")
    whole(place, last)


def test_a_run_that_waits_for_its_traffic_is_ended(place: TrainingPlace) -> None:
    with connect("", int(place.addresses["monitoring"].rpartition(":")[2])) as monitoring:
        recorded(monitoring, "busy", 3, labelled=3)
    with held(place.database_url, "INSERT ON trainer.blobs") as until_held:
        run = place.client.training.create_run("busy", **{**QUICK, "data_source": "traffic:1h"})
        until_held()
        last = ended(place, run)
    assert last.message.startswith("gathering rows")


@pytest.mark.parametrize(
    "recipe", [{"recipe": "script", "parameters": {"code": WAITS}}, SEARCH], ids=["script", "search"]
)
def test_a_recipe_is_ended_with_all_its_processes(place: TrainingPlace, recipe: dict[str, Any]) -> None:
    client = place.client.training
    run = client.create_run(f"ended-{recipe['recipe']}", **recipe)
    wait_until(lambda: client.get_run(run.id).done_epochs > 0)
    assert recipes()
    ended(place, run)
    assert versions(place, run.model) == []


def test_what_has_ended_otherwise_is_not_ended_again(place: TrainingPlace) -> None:
    failed = place.train("over", recipe="script", parameters={"code": FAILS})
    with pytest.raises(penstock.FailedPrecondition, match="the run has ended already: it is FAILED") as refused:
        place.client.training.cancel_run(failed.id)
    assert refused.value.reason == "JOB_ENDED"


@pytest.mark.parametrize(
    ("recipe", "whose", "number"),
    [
        (LONG[0], "recipe", signal.SIGKILL),
        (LONG[0], "guard", signal.SIGKILL),
        (LONG[0], "recipe", signal.SIGSEGV),
        (SEARCH, "recipe", signal.SIGKILL),
    ],
    ids=["killed", "guard killed", "crashed", "search killed"],
)
def test_a_recipe_whose_process_dies_fails_its_run_and_nothing_else(
    place: TrainingPlace, recipe: dict[str, Any], whose: str, number: signal.Signals
) -> None:
    client = place.client.training
    run = client.create_run("struck", **recipe)
    wait_until(lambda: client.get_run(run.id).done_epochs > 0)
    guard, child = sorted(recipes(), key=lambda process: process.pid)
    assert child.ppid() == guard.pid
    (child if whose == "recipe" else guard).send_signal(number)
    failed = client.wait_run(run.id)
    reason = "OUT_OF_MEMORY" if number == signal.SIGKILL else "TRAINING_FAILED"
    assert (failed.state, failed.reason, failed.retryable) == (pb.TRAINING_RUN_STATE_FAILED, reason, False)
    leaves_nothing(place)
    assert versions(place, run.model) == []


@pytest.mark.parametrize("step", ["dividing rows", "being registered", "being judged"])
def test_who_has_lost_its_lease_neither_ends_nor_reports(place: TrainingPlace, step: str) -> None:
    whose, when, which = STEPS[step]
    client, model = place.client.training, f"lost-{step.replace(' ', '-')}"
    with held(place.databases[whose], when, which) as until_held:
        run = client.create_run(model, **QUICK)
        until_held()
        (taken,) = place.rows(STEAL, run.id)
    # There is one place: whoever has it now has let go of the run that was taken.
    place.train("next", recipe="script", parameters={"code": FAILS})
    leaves_nothing(place)
    assert place.rows("SELECT * FROM trainer.training_runs WHERE job_id = %s", run.id) == [taken], "nothing is written"
    assert place.rows(GIVE_UP, run.id)
    done = client.wait_run(run.id)
    assert (done.state, done.attempt, done.validation_passed) == (pb.TRAINING_RUN_STATE_COMPLETED, 3, True)
    whole(place, done)
    assert [each.id for each in place.client.registry.evaluations(model)] == [done.evaluation_id]
    assert [each.id for each in place.client.monitoring.profiles.list(model=model)] == [done.profile_id]
