"""What a run leaves becomes one version, under a name of its own, however often the run is begun."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf.json_format import MessageToDict

import penstock
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.ids import uuid7
from services.common.errors import DomainError
from services.common.jobs import Stopped, StopReason
from services.trainer.faults import RegistrationFailed, RegistryUnavailable
from services.trainer.registering.models import RegisteredVersion, Registration
from services.trainer.registering.profiling import ReferenceProfiles
from services.trainer.registering.registering import Registering
from services.trainer.task import Outcome
from tests.postgres import PostgresServer
from tests.services import Running, running_monitoring, running_registry
from tests.validating import COLUMNS, GoesOn, flowers, registration

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def registry(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    url = postgres_server.clone("registry")
    with running_registry(url, tmp_path_factory.mktemp("registry")) as service:
        yield service
    postgres_server.drop(url)


@pytest.fixture
def client(registry: Running) -> Iterator[penstock.Client]:
    with penstock.Client(registry=registry.address) as connected:
        yield connected


def register(registry: Running, given: Registration) -> RegisteredVersion:
    return Registering(partial(penstock.Client, registry=registry.address)).register(
        GoesOn(), given, lambda _name: None
    )


def test_a_version_says_where_it_comes_from(registry: Running, client: penstock.Client, tmp_path: Path) -> None:
    given = registration(tmp_path, "told", dataset_digest="cd" * 32, note="drift")
    made = register(registry, given)
    assert (made.version, made.deployment_number, made.stage) == ("1.0.0", 1, "CANDIDATE")
    version = client.registry.get_version("told", "1.0.0")
    assert version.state == pb.VERSION_STATE_READY
    assert version.training_run_id == given.run_id
    assert (version.source.origin, version.source.reference, version.source.revision) == (
        "training", "iris/7", "cd" * 32,
    )  # fmt: skip
    assert list(version.signature.inputs[0].columns) == list(COLUMNS)
    assert version.metadata.task_type == "classification"
    fields = MessageToDict(version.metadata.fields)
    assert fields["columns"] == list(COLUMNS)
    assert (fields["training_run_id"], fields["recipe"], fields["config_version"]) == (given.run_id, "sklearn", 3)
    assert (fields["classes"], fields["code_sha256"]) == (["0", "1", "2"], "ab" * 32)
    assert made.size_bytes == version.size_bytes > 0


def test_a_name_is_the_next_minor_one_and_what_was_live_is_the_parent(
    registry: Running, client: penstock.Client, tmp_path: Path
) -> None:
    assert register(registry, registration(tmp_path, "named", version="1.3.0")).version == "1.3.0"
    for stage in ("staging", "production"):
        client.registry.promote("named", "1.3.0", stage, approved_by="ada", note="it was tried")
    second = register(registry, registration(tmp_path, "named", seed=1))
    assert second.version == "1.4.0"
    assert client.registry.get_version("named", "1.4.0").parent_deployment_number == 1


def test_the_same_run_begun_again_makes_the_same_version(
    registry: Running, client: penstock.Client, tmp_path: Path
) -> None:
    given, names = registration(tmp_path, "again"), list[str]()
    registering = Registering(partial(penstock.Client, registry=registry.address))
    first = registering.register(GoesOn(), given, names.append)
    second = registering.register(
        GoesOn(), registration(tmp_path, "again", run_id=given.run_id, version=names[0], generated=True), names.append
    )
    assert first == second
    assert names == ["1.0.0"], "the second attempt looks before it registers"
    assert len(list(client.registry.list_versions("again"))) == 1


def test_a_generated_name_that_is_taken_gives_way_and_one_that_was_asked_for_does_not(
    registry: Running, tmp_path: Path
) -> None:
    register(registry, registration(tmp_path, "taken"))
    kept_before = registration(tmp_path, "taken", version="1.0.0", generated=True)
    assert register(registry, kept_before).version == "1.1.0"
    with pytest.raises(RegistrationFailed) as refused:
        register(registry, registration(tmp_path, "taken", version="1.0.0"))
    assert refused.value.reason == "VERSION_EXISTS"


def test_a_generated_name_that_was_deleted_meanwhile_gives_way(
    registry: Running, client: penstock.Client, tmp_path: Path
) -> None:
    register(registry, registration(tmp_path, "gone"))
    client.registry.delete_version("gone", "1.0.0")
    kept_before = registration(tmp_path, "gone", version="1.0.0", generated=True)
    assert register(registry, kept_before).version == "1.1.0"


def test_runs_at_once_have_names_of_their_own(registry: Running, tmp_path: Path) -> None:
    given = [registration(tmp_path, "crowd", seed=seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(partial(register, registry), given))
    assert sorted(each.version for each in made) == ["1.0.0", "1.1.0", "1.2.0", "1.3.0"]
    assert sorted(each.deployment_number for each in made) == [1, 2, 3, 4]


def test_what_the_validator_refuses_leaves_no_version(
    registry: Running, client: penstock.Client, tmp_path: Path
) -> None:
    given = registration(tmp_path, "broken")
    (given.folder.artifact / "model.onnx").write_bytes(b"no model at all")
    with pytest.raises(RegistrationFailed, match="failed validation"):
        register(registry, given)
    assert list(client.registry.list_versions("broken")) == []


def test_links_and_nothing_are_no_version(registry: Running, tmp_path: Path) -> None:
    given = registration(tmp_path, "odd")
    (given.folder.artifact / "passwords").symlink_to("/etc/passwd")
    with pytest.raises(RegistrationFailed, match="no plain file") as odd:
        register(registry, given)
    assert odd.value.reason == "INVALID_OUTCOME"
    (given.folder.artifact / "passwords").unlink()
    (given.folder.artifact / "model.onnx").unlink()
    with pytest.raises(RegistrationFailed, match="left no file"):
        register(registry, given)


def test_a_registry_that_is_away_is_asked_again_later(tmp_path: Path) -> None:
    registering = Registering(partial(penstock.Client, registry="127.0.0.1:1", timeout_s=1))
    with pytest.raises(RegistryUnavailable) as away:
        registering.register(GoesOn(), registration(tmp_path, "away"), lambda _name: None)
    assert away.value.retryable


def test_a_run_that_is_to_end_registers_nothing(registry: Running, client: penstock.Client, tmp_path: Path) -> None:
    stopping = GoesOn()
    registering = Registering(partial(penstock.Client, registry=registry.address))

    def keep(_name: str) -> None:
        stopping.ended = Stopped(StopReason.CANCELLED)

    with pytest.raises(Stopped):
        registering.register(stopping, registration(tmp_path, "ended"), keep)
    assert stopping.callbacks == []
    assert "ended" not in {model.name for model in client.registry.list_models()}


def test_a_profile_is_of_the_columns_that_the_version_takes(
    registry: Running, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    given = registration(tmp_path, "profiled")
    made = register(registry, given)
    rows = tmp_path / "train.parquet"
    pq.write_table(flowers(80, note=["x"] * 80), rows)
    url = postgres_server.clone("monitoring")
    with running_monitoring(url, registry_address=registry.address) as monitoring:
        profiles = ReferenceProfiles(partial(penstock.Client, monitoring=monitoring.address))
        profile_id = profiles.profile(GoesOn(), "profiled", made.version, given.outcome, rows)
        with penstock.Client(monitoring=monitoring.address) as client:
            profile = client.monitoring.profiles.of_version("profiled", made.version)
        assert profile.id == profile_id
        assert {feature.name for feature in profile.features} == set(COLUMNS)
        assert profiles.profile(GoesOn(), "profiled", made.version, given.outcome, rows) == profile_id
        pq.write_table(flowers(20), rows)
        with pytest.raises(DomainError, match="too few"):
            profiles.profile(GoesOn(), "profiled", made.version, given.outcome, rows)
    postgres_server.drop(url)


def test_without_monitoring_there_is_no_profile(tmp_path: Path) -> None:
    rows = tmp_path / "train.parquet"
    pq.write_table(pa.table({"x": [1.0] * 60}), rows)
    away = partial(penstock.Client, monitoring="127.0.0.1:1", timeout_s=1)
    with pytest.raises(DomainError) as none:
        ReferenceProfiles(away, monitoring=False).profile(GoesOn(), "m", uuid7(), Outcome("ONNX"), rows)
    assert none.value.reason == "PROFILE_REFUSED"
    with pytest.raises(DomainError) as silent:
        ReferenceProfiles(away).profile(GoesOn(), "m", uuid7(), Outcome("ONNX"), rows)
    assert silent.value.reason == "MONITORING_UNAVAILABLE"
