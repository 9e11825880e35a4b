"""The validator as its own process beside a registry that leaves the work to it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import ValidationError

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from services.common.postgres import Database
from services.registry.models import Framework
from services.registry.store import Store
from services.registry.validation.settings import ValidatorSettings
from tests import registry
from tests.testdata import models
from tests.testdata.bundles import bundle

pytestmark = pytest.mark.slow
READY = pb.VERSION_STATE_READY
SERVING = health_pb2.HealthCheckResponse.SERVING
HELD = "SELECT crash_count, lease_expire_time <= clock_timestamp() FROM registry.validations"


class ValidatorProcess:
    """`python -m services.registry.validation`, on the database and the blobs of a registry."""

    def __init__(self, database_url: str, folder: Path, **more: Any) -> None:
        settings = {
            "database_url": database_url,
            "blob_url": f"file://{folder}/blobs",
            "port": 0,
            "metrics_port": 0,
            "poll_interval_ms": 200,
            **more,
        }
        environment = {**os.environ, **{f"PENSTOCK_{key.upper()}": str(value) for key, value in settings.items()}}
        self.log = folder / f"validator-{secrets.token_hex(4)}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.registry.validation"], env=environment, stdout=log, stderr=log
            )

    def listening(self) -> dict[str, Any]:
        """Wait until it listens, and say where."""

        def look() -> dict[str, Any] | None:
            assert self.process.poll() is None, self.log.read_text()
            whole = [line for line in self.log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
            lines = [json.loads(line) for line in whole if line.startswith("{")]
            return next((line for line in lines if line["event"] == "listening"), None)

        return registry.wait_until(look)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and give the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(registry.DEADLINE_S)


@contextmanager
def validator(database_url: str, folder: Path, **more: Any) -> Iterator[ValidatorProcess]:
    process = ValidatorProcess(database_url, folder, **more)
    try:
        process.listening()
        yield process
    finally:
        process.end(signal.SIGKILL)


@pytest.fixture
def database_url(clone_database: Callable[[str], str]) -> str:
    return clone_database("registry")


@pytest.fixture
def stub(database_url: str, tmp_path: Path) -> Iterator[RegistryServiceStub]:
    """A registry that validates nothing itself."""
    with registry.registry(registry.settings_for(database_url, tmp_path, validation_threads=0)) as served:
        yield served


def test_it_validates_what_the_registry_took_and_answers_health_and_metrics_alone(
    stub: RegistryServiceStub, database_url: str, tmp_path: Path
) -> None:
    files = {"model.onnx": models.external_data("weights.data", offset=16, length=16), "weights.data": bytes(32)}
    stub.RegisterVersion(registry.upload_files(files), timeout=registry.DEADLINE_S)
    stub.RegisterVersion(
        registry.upload_files(bundle(), model="texts", framework=pb.FRAMEWORK_TRANSFORMERS), timeout=registry.DEADLINE_S
    )
    copies = tmp_path / "copies"
    with validator(database_url, tmp_path, validation_dir=copies) as process:
        assert registry.settled(stub, "iris", "1").state == READY
        found = registry.settled(stub, "texts", "1")
        assert found.state == READY, found
        assert [spec.name for spec in found.signature.inputs] == ["input_ids", "attention_mask"]
        listening = process.listening()
        with grpc.insecure_channel(listening["address"]) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=registry.DEADLINE_S).status == SERVING
            with pytest.raises(grpc.RpcError) as caught:
                RegistryServiceStub(channel).ListModels(pb.ListModelsRequest(), timeout=registry.DEADLINE_S)
            assert registry.refusal(caught.value)[0] is grpc.StatusCode.UNIMPLEMENTED
        metrics = f"http://127.0.0.1:{listening['metrics_port']}/metrics"
        with urllib.request.urlopen(metrics, timeout=registry.DEADLINE_S) as answer:
            assert b'penstock_registry_validations_total{result="ready"} 2.0' in answer.read()
        assert process.end() == 0, process.log.read_text()
    assert not list(copies.iterdir())


def test_sigterm_gives_its_validation_back_at_once(
    stub: RegistryServiceStub, database_url: str, tmp_path: Path
) -> None:
    with (
        psycopg.connect(database_url, autocommit=True) as database,
        validator(database_url, tmp_path, validation_lease_ms=600_000) as process,
    ):
        stub.RegisterVersion(registry.upload(models.unending()), timeout=registry.DEADLINE_S)
        registry.wait_until(lambda: (database.execute(HELD).fetchone() == (1, False)) or None)
        assert process.end() == 0, process.log.read_text()
        assert database.execute(HELD).fetchone() == (0, True)


def test_another_takes_over_from_one_that_was_killed(
    stub: RegistryServiceStub, database_url: str, tmp_path: Path
) -> None:
    with psycopg.connect(database_url, autocommit=True) as database:
        with validator(database_url, tmp_path, validation_lease_ms=500) as process:
            stub.RegisterVersion(registry.upload(models.linear()), timeout=registry.DEADLINE_S)
            with database.transaction():
                # While this lock is held, no validation can conclude.
                database.execute("SELECT 1 FROM registry.models FOR UPDATE")
                registry.wait_until(lambda: database.execute(f"{HELD} WHERE attempt > 0").fetchone())
                assert process.end(signal.SIGKILL) == -signal.SIGKILL
        assert database.execute("SELECT state FROM registry.versions").fetchall() == [("VALIDATING",)]
        with validator(database_url, tmp_path):
            assert registry.settled(stub, "iris", "1").state == READY


def test_nothing_is_registered_that_no_validator_opens_once_one_was_seen(
    stub: RegistryServiceStub, database_url: str, tmp_path: Path
) -> None:
    stub.RegisterVersion(registry.upload(models.linear()), timeout=registry.DEADLINE_S)
    with validator(database_url, tmp_path, validation_frameworks="transformers") as process:
        with pytest.raises(grpc.RpcError) as caught:
            stub.RegisterVersion(registry.upload(models.linear(), version="2"), timeout=registry.DEADLINE_S)
        code, reason, _ = registry.refusal(caught.value)
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NO_VALIDATOR")
        assert process.end() == 0
    with psycopg.connect(database_url) as database:
        untouched = "SELECT attempt FROM registry.validations"
        assert database.execute(untouched).fetchall() == [(0,)], "the first waits for one that opens it"
        database.execute("UPDATE registry.versions SET state = 'FAILED'")
        database.commit()
        with pytest.raises(grpc.RpcError) as caught:
            stub.RevalidateVersion(pb.RevalidateVersionRequest(model="iris", version="1"))
        assert registry.refusal(caught.value)[1] == "NO_VALIDATOR"
        database.execute("UPDATE registry.versions SET state = 'VALIDATING'")
    with validator(database_url, tmp_path, validation_frameworks="onnx"):
        assert registry.settled(stub, "iris", "1").state == READY


def test_a_validator_counts_for_minutes_after_it_was_seen(database_url: str) -> None:
    with Database(database_url) as database, psycopg.connect(database_url, autocommit=True) as clock:
        store = Store(database)

        def known() -> frozenset[Framework] | None:
            with store.read() as tables:
                return tables.validations.known_frameworks()

        def announce(name: str, *frameworks: Framework) -> None:
            with store.write() as tables:
                tables.validations.announce(name, frameworks)

        assert known() is None, "at the very first start nothing is said against any framework"
        announce("old", Framework.TENSORFLOW)
        announce("new", Framework.ONNX, Framework.TRANSFORMERS)
        assert known() == frozenset({Framework.ONNX, Framework.TRANSFORMERS, Framework.TENSORFLOW})
        clock.execute("UPDATE registry.validators SET seen_time = seen_time - interval '6 minutes' WHERE name = 'old'")
        assert known() == frozenset({Framework.ONNX, Framework.TRANSFORMERS})
        clock.execute("UPDATE registry.validators SET seen_time = seen_time - interval '6 minutes' WHERE name = 'new'")
        assert known() == frozenset(), "none runs, though some did"
        clock.execute("UPDATE registry.validators SET seen_time = seen_time - interval '24 hours'")
        assert known() is None, "whoever was away for a day begins as at the very first start"
        announce("new", Framework.ONNX)
        assert known() == frozenset({Framework.ONNX})
        assert clock.execute("SELECT name FROM registry.validators").fetchall() == [("new",)]


def test_a_registry_with_a_validator_inside_announces_it_before_it_serves(database_url: str, tmp_path: Path) -> None:
    with (
        registry.registry(registry.settings_for(database_url, tmp_path, validation_frameworks="onnx")) as stub,
        psycopg.connect(database_url) as database,
    ):
        assert database.execute("SELECT frameworks FROM registry.validators").fetchall() == [(["ONNX"],)]
        assert registry.register(stub, models.linear()).state == READY


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("validation_allow", "everything"),
        ("validation_allow", "onnx-domain:"),
        ("validation_frameworks", "onnx,pickle"),
        ("validation_threads", 0),
    ],
)
def test_a_setting_that_can_not_be_meant_is_refused(database_url: str, setting: str, value: object) -> None:
    values = {"database_url": database_url, "blob_url": "file:///tmp/blobs", setting: value}
    with pytest.raises(ValidationError, match=setting):
        ValidatorSettings.model_validate(values)


def test_policy_is_read_as_a_list(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", database_url)
    monkeypatch.setenv("PENSTOCK_BLOB_URL", "file:///tmp/blobs")
    monkeypatch.setenv("PENSTOCK_VALIDATION_ALLOW", "keras-lambda, onnx-domain:acme.kernels")
    settings = ValidatorSettings()  # type: ignore[call-arg] # the environment gives what has no default
    assert settings.validation_allow == {"keras-lambda", "onnx-domain:acme.kernels"}
    assert settings.validation_frameworks is None
