"""kill -9 of the trainer at each step of a run: whoever comes next goes on, and one version comes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
from pydantic import SecretStr

from penstock.api.trainer.v1 import training_pb2 as pb
from penstock.api.trainer.v1 import validations_pb2
from penstock.cli.embedded.ports import free_port
from tests.faults.proxy import Proxy
from tests.holding import held, saying
from tests.integration.test_training_runs import WAITS
from tests.postgres import PostgresServer
from tests.serving import wait_until
from tests.training import QUICK, TrainingPlace, recipes, training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
COUNTS = """
import time
def train(context):
    kept = context.checkpoint / "epoch"
    first = int(kept.read_text()) + 1 if kept.exists() else 1
    print("begins with", first)
    for epoch in range(first, 5):
        context.report(epoch, {"loss": 1.0 / epoch}, total=4)
        kept.write_text(str(epoch))
        context.save_checkpoint(epoch)
        if first == 1 and epoch == 2:
            time.sleep(600)
    raise ValueError("done")
"""
# Where a trainer is killed: whose database, the step that it is about to take, and which rows.
POINTS = {
    "gathering rows": ("trainer", *saying("gathering rows")),
    "training": ("trainer", *saying("training")),
    "keeping what the recipe left": ("trainer", "INSERT ON trainer.named_blobs", "NEW.name = 'out'"),
    "registering": ("trainer", *saying("registering")),
    "uploading the version": ("registry", "INSERT ON registry.versions", "true"),
    "waiting for the validator": ("registry", "UPDATE ON registry.versions", "NEW.state = 'READY'"),
    "making a profile": ("monitoring", "INSERT ON monitoring.profiles", "true"),
    "validating": ("trainer", *saying("validating version")),
    "having it judged": ("registry", "INSERT ON registry.evaluations", "true"),
    "ending": ("trainer", "UPDATE ON trainer.training_runs", "NEW.state = 'COMPLETED'"),
}
VALIDATING = set(list(POINTS)[list(POINTS).index("uploading the version") :])
VALIDATION_POINTS = {
    "predicting": ("trainer", "UPDATE ON trainer.validations", "NEW.done_count > OLD.done_count"),
    "having it judged": ("registry", "INSERT ON registry.evaluations", "true"),
    "ending": ("trainer", "UPDATE ON trainer.validations", "NEW.state = 'COMPLETED'"),
}


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingPlace]:
    """All services but a trainer that works: those are processes, which a test kills."""
    folder = tmp_path_factory.mktemp("trainer")
    settings = {"trainer_worker_enabled": False, "trainer_scripts_enabled": True, "poll_interval_ms": 200}
    with training(postgres_server, folder, **settings) as place:
        place.upload_flowers(folder)
        yield place


@pytest.fixture(scope="module")
def version(place: TrainingPlace) -> tuple[str, str]:
    """A model and its version, to be validated."""
    with place.replica(trainer_worker_enabled=True):
        return "tried", place.train("tried", **QUICK).new_version


class TrainerProcess:
    """A trainer in a process of its own, on the place's database."""

    def __init__(self, place: TrainingPlace) -> None:
        settings = place.settings
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        said = {
            "database_url": place.database_url, "blob_url": settings.blob_url, "port": port, "metrics_port": 0,
            "registry_address": settings.registry_address, "inference_address": settings.inference_address,
            "monitoring_address": settings.monitoring_address, "trainer_lease_ms": 3_000, "poll_interval_ms": 200,
            "trainer_work_folder": settings.trainer_work_folder, "trainer_scripts_enabled": "true",
        }  # fmt: skip
        environment = {**os.environ, **{f"PENSTOCK_{name.upper()}": str(value) for name, value in said.items()}}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.trainer"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def children(self) -> list[psutil.Process]:
        """Its recipes' processes."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> None:
        """End it as a power cut would; what it started ends with it."""
        children = self.children()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(60)
        wait_until(lambda: not any(_runs(child) for child in children))


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def working(place: TrainingPlace) -> Iterator[TrainerProcess]:
    """Have a trainer work for the block."""
    trainer = TrainerProcess(place)
    try:
        yield trainer
    finally:
        left = trainer.process.poll()
        trainer.kill()
        assert left in (None, -signal.SIGKILL), f"the trainer ended by itself, with code {left}"


@pytest.mark.parametrize("point", POINTS)
def test_a_run_whose_trainer_is_killed_makes_one_version_all_the_same(place: TrainingPlace, point: str) -> None:
    model, (whose, *step) = f"killed-{point.replace(' ', '-')}", POINTS[point]
    with held(place.databases[whose], *step) as until_held, working(place):
        run = place.client.training.create_run(model, **QUICK)
        until_held()
    at = "VALIDATING" if point in VALIDATING else "RUNNING"
    assert place.client.training.get_run(run.id).state == pb.TrainingRunState.Value(f"TRAINING_RUN_STATE_{at}")
    for state in ("RUNNING", "VALIDATING"):
        listed = [each.id for each in place.client.training.list_runs(model=model, states=[state])]
        assert listed == [run.id] * (state == at), "a run that is tried is listed as such, and as no other"
    with place.replica(trainer_worker_enabled=True):
        ended = place.client.training.wait_run(run.id)
    assert ended.state == pb.TRAINING_RUN_STATE_COMPLETED, ended.message
    assert (ended.attempt, ended.validation_passed) == (2, True)
    (version,) = place.client.registry.list_versions(model)
    assert (version.version, version.training_run_id) == (ended.new_version, run.id)
    assert len(list(place.client.registry.evaluations(model, version.version))) == 1
    assert [each.id for each in place.client.monitoring.profiles.list(model=model)] == [ended.profile_id]
    assert len(list(place.client.validations.list(model=model))) == 1
    log = b"".join(piece.chunk for piece in place.client.training.log(run.id)).decode()
    begun = 2 if point == "keeping what the recipe left" else 1
    assert log.count("confined by:") == begun, "what was trained and kept is not trained again"


@pytest.mark.parametrize("point", VALIDATION_POINTS)
def test_a_validation_whose_trainer_is_killed_is_recorded_once(
    place: TrainingPlace, version: tuple[str, str], point: str
) -> None:
    whose, *step = VALIDATION_POINTS[point]
    before = len(list(place.client.registry.evaluations(*version)))
    with held(place.databases[whose], *step) as until_held, working(place):
        asked = place.client.validations.create(*version, "flowers")
        until_held()
    assert place.client.validations.get(asked.id).state == validations_pb2.VALIDATION_STATE_RUNNING
    with place.replica(trainer_worker_enabled=True):
        ended = place.client.validations.wait(asked.id)
    assert (ended.state, ended.attempt, ended.passed) == (validations_pb2.VALIDATION_STATE_COMPLETED, 2, True)
    recorded = list(place.client.registry.evaluations(*version))
    assert (len(recorded), recorded[0].id) == (before + 1, ended.evaluation_id)


@pytest.mark.parametrize(
    "limits", [{"trainer_runs": 1}, {"trainer_runs": 4, "trainer_max_running": 1}], ids=["places", "over all"]
)
def test_no_more_runs_go_on_at_once_than_are_allowed(
    place: TrainingPlace, version: tuple[str, str], limits: dict[str, int]
) -> None:
    client, (whose, *step) = place.client.training, POINTS["waiting for the validator"]
    with place.replica(trainer_worker_enabled=True, **limits):
        with held(place.databases[whose], *step) as until_held:
            first = client.create_run("bounded", **QUICK)
            until_held()
            second = client.create_run("bounded", **QUICK)
            # What is asked for later and needs no place of a run's is done meanwhile: the trainer looks for work.
            asked = place.client.validations.create(*version, "flowers")
            assert place.client.validations.wait(asked.id).passed
            waiting = client.get_run(second.id)
            assert (waiting.state, waiting.attempt) == (pb.TRAINING_RUN_STATE_QUEUED, 0)
            assert client.get_run(first.id).state == pb.TRAINING_RUN_STATE_VALIDATING
        before, after = client.wait_run(first.id), client.wait_run(second.id)
    assert before.state == after.state == pb.TRAINING_RUN_STATE_COMPLETED, (before.message, after.message)
    assert before.end_time.ToNanoseconds() <= after.start_time.ToNanoseconds(), "one after the other"


def test_a_run_that_waits_when_the_trainer_dies_is_done_by_the_next(place: TrainingPlace) -> None:
    client = place.client.training
    with working(place) as trainer:
        busy = client.create_run("busy", recipe="script", parameters={"code": WAITS})
        run = client.create_run("waited", **QUICK)
        wait_until(lambda: client.get_run(busy.id).done_epochs == 1)
        trainer.kill()
    waiting = client.get_run(run.id)
    assert (waiting.state, waiting.attempt) == (pb.TRAINING_RUN_STATE_QUEUED, 0), "the one place was taken"
    client.cancel_run(busy.id)
    with place.replica(trainer_worker_enabled=True):
        done = client.wait_run(run.id)
        assert client.wait_run(busy.id).state == pb.TRAINING_RUN_STATE_CANCELLED
    assert (done.state, done.attempt) == (pb.TRAINING_RUN_STATE_COMPLETED, 1), done.message


def test_a_rescued_run_goes_on_from_its_last_checkpoint(place: TrainingPlace) -> None:
    client = place.client.training
    run = client.create_run("resumed", recipe="script", parameters={"code": COUNTS})
    kept = "SELECT FROM trainer.named_blobs WHERE owner_id = %s AND name = 'checkpoint'"
    with working(place):
        wait_until(lambda: bool(place.rows(kept, run.id)) and client.get_run(run.id).done_epochs == 2)
    with working(place):
        ended = client.wait_run(run.id)
        folder = place.settings.trainer_work_folder
        assert folder is not None
        assert len(list(folder.glob("penstock-trainer-*"))) == 2, (
            "the place's own and this one's; the killed one's went"
        )
    assert (ended.attempt, ended.done_epochs) == (2, 4), ended.message
    assert "done" in ended.message
    told = {epoch.number: epoch.attempt for epoch in client.epochs(run.id)}
    assert told == {1: 1, 2: 1, 3: 2, 4: 2} or told == {1: 1, 2: 2, 3: 2, 4: 2}, "at most the last is told again"
    log = b"".join(piece.chunk for piece in client.log(run.id)).decode()
    assert "begins with 1" in log
    assert "begins with 2" in log or "begins with 3" in log


def test_a_trainer_that_has_lost_its_database_ends_its_recipe_before_another_goes_on(
    place: TrainingPlace, postgres_server: PostgresServer
) -> None:
    client = place.client.training
    with Proxy(postgres_server.port) as proxy:
        url = SecretStr(place.database_url.replace(f":{postgres_server.port}/", f":{proxy.port}/"))
        with place.replica(trainer_worker_enabled=True, trainer_lease_ms=2_000, database_url=url):
            run = client.create_run("cut-off", recipe="script", parameters={"code": COUNTS})
            wait_until(lambda: client.get_run(run.id).done_epochs == 2)
            assert recipes()
            proxy.cut()
            wait_until(lambda: not recipes())
            with place.replica(trainer_worker_enabled=True):
                ended = client.wait_run(run.id)
            proxy.heal()
    assert (ended.attempt, ended.done_epochs) == (2, 4), ended.message
    assert client.get_run(run.id) == ended


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_run_waits_for_a_monitoring_that_is_away_and_at_last_does_without(
    place: TrainingPlace, comes_back: bool
) -> None:
    model = f"unwatched-{comes_back}".lower()
    profiling_again = ("UPDATE ON trainer.training_runs", "NEW.attempt = 2 AND NEW.message LIKE 'making a reference%'")
    with (
        Proxy(int(place.addresses["monitoring"].rpartition(":")[2])) as monitoring,
        place.replica(trainer_worker_enabled=True, monitoring_address=monitoring.address),
    ):
        monitoring.cut()
        with held(place.database_url, *profiling_again) as until_held:
            run = place.client.training.create_run(model, **QUICK)
            until_held()
            if comes_back:
                monitoring.heal()
        ended = place.client.training.wait_run(run.id)
    assert (ended.state, ended.validation_passed) == (pb.TRAINING_RUN_STATE_COMPLETED, True), ended.message
    assert (ended.attempt, bool(ended.profile_id)) == ((2, True) if comes_back else (3, False))
    assert ("no reference profile was made: monitoring made no profile" in ended.message) is not comes_back
    assert [each.id for each in place.client.monitoring.profiles.list(model=model)] == [ended.profile_id] * comes_back
    assert [each.version for each in place.client.registry.list_versions(model)] == [ended.new_version]
    log = b"".join(piece.chunk for piece in place.client.training.log(run.id)).decode()
    assert log.count("confined by:") == 1, "what was trained and kept is not trained again"
