"""Inference follows the registry, lives through its absence, and believes no file that it has not checked."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

import penstock
from penstock.api.registry.v1.registry_pb2 import WatchModelsResponse
from penstock.cli.embedded.ports import free_port
from services.inference.following.catalog import Catalog
from services.inference.following.follower import CatalogTaker, Follower, RegistryWatch
from services.inference.following.takeovers import Takeovers
from services.inference.models import ResolvedVersion
from services.inference.oip import open_inference_pb2 as oip
from tests import inference
from tests.inference import APPROVED, DEADLINE_S, Suite, fp32
from tests.postgres import PostgresServer
from tests.services import CloneDatabase, Running, running_inference, running_registry
from tests.testdata import models

ROW = fp32([[1, 2, 3, 4]])
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def keep(_before: ResolvedVersion, _now: ResolvedVersion | None) -> None:
    """Nothing is in memory that could be let go."""


def answering(client: penstock.Client, model: str = "linear") -> str:
    """Say which version answers now."""
    return client.inference.predict(model, ROW).version


def health(service: Running) -> int:
    with grpc.insecure_channel(service.address) as channel:
        answer = HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
        return int(answer.status)


@dataclass
class Caller:
    """Predicts without a pause on a thread of its own, and remembers which version answered what."""

    client: penstock.Client
    answers: list[tuple[str, bytes]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stopped.is_set():
            try:
                answer = self.client.inference.predict("linear", ROW)
                self.answers.append((answer.version, answer.outputs["y"].tobytes()))
            except Exception as error:  # noqa: BLE001 - the test fails for whatever it is
                self.errors.append(error)

    def until(self, version: str) -> None:
        """Wait until a call that began from now on was answered by a version."""
        seen = len(self.answers) + 1
        inference.wait_until(lambda: any(each == version for each, _ in self.answers[seen:]) or None)

    @property
    def versions(self) -> list[str]:
        """The versions in the order in which they answered, each once a stretch."""
        answered = [version for version, _ in self.answers]
        return [version for before, version in zip(["", *answered], answered, strict=False) if version != before]


@pytest.fixture
def suite(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Suite]:
    with inference.running_suite(postgres_server, tmp_path) as suite:
        yield suite


@pytest.mark.slow
def test_versions_change_under_load_without_one_failed_request(suite: Suite) -> None:
    contents = {version: models.linear(seed=seed) for seed, version in enumerate(("1.0.0", "2.0.0", "3.0.0"))}
    inference.serve(suite, "linear", contents["1.0.0"], version="1.0.0")
    inference.go_live(suite.client, "linear", "1.0.0")
    callers = [Caller(suite.client) for _ in range(3)]
    threads = [threading.Thread(target=caller.run) for caller in callers]
    for thread in threads:
        thread.start()
    try:
        for version in ("2.0.0", "3.0.0"):
            inference.register(suite.client, "linear", contents[version], version=version)
            inference.go_live(suite.client, "linear", version)
            for caller in callers:
                caller.until(version)
        for version in ("2.0.0", "1.0.0"):
            assert suite.client.registry.rollback("linear", **APPROVED).version.version == version
            for caller in callers:
                caller.until(version)
    finally:
        for caller in callers:
            caller.stopped.set()
        for thread in threads:
            thread.join(DEADLINE_S)
    for caller in callers:
        assert caller.errors == []
        assert caller.versions == ["1.0.0", "2.0.0", "3.0.0", "2.0.0", "1.0.0"]
    # A version's name never came with another version's numbers.
    told = {answer for caller in callers for answer in caller.answers}
    assert len(told) == len({version for version, _ in told}) == 3


def test_a_version_that_goes_live_is_in_memory_before_it_is_asked(suite: Suite) -> None:
    inference.serve(suite, "linear", models.linear(), version="1.0.0")
    inference.go_live(suite.client, "linear", "1.0.0")
    name = 'penstock_session_bytes{model="linear",version="1.0.0"}'
    inference.wait_until(lambda: name in inference.metrics_page(suite.inference) or None)
    assert answering(suite.client) == "1.0.0"
    assert inference.metrics_page(suite.inference)["penstock_session_loads_total"] == 1


def test_a_version_that_fails_validation_changes_nothing(suite: Suite) -> None:
    inference.serve(suite, "linear", models.linear(), version="1.0.0")
    with pytest.raises(penstock.ValidationFailed):
        inference.register(suite.client, "linear", models.dangling(), version="2.0.0")
    inference.wait_until(
        lambda: any(entry.version == "2.0.0" and entry.reason == "FAILED" for entry in index(suite)) or None
    )
    assert answering(suite.client) == "1.0.0"


def index(suite: Suite) -> list[oip.RepositoryIndexResponse.ModelIndex]:
    return list(suite.oip.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=DEADLINE_S).models)


class Outage:
    """A registry that a test stops and starts again at one address, and an inference service that it starts anew."""

    def __init__(self, database_url: str, folder: Path, monitoring: Running) -> None:
        self.folder = folder
        self._monitoring = monitoring
        self._database_url = database_url
        self._registry = ExitStack()
        self._inference = ExitStack()
        self._port = free_port()  # nobody takes it while the registry is away

    def start_registry(self, database_url: str = "") -> Running:
        """Start it where it listened before."""
        url = database_url or self._database_url
        return self._registry.enter_context(running_registry(url, self.folder, port=self._port))

    def stop_registry(self) -> None:
        self._registry.close()

    def start_inference(self) -> Suite:
        service = self._inference.enter_context(
            running_inference(
                self.folder,
                registry=f"127.0.0.1:{self._port}",
                monitoring=self._monitoring.address,
                health_interval_ms=50,
            )
        )
        registry = Running(f"127.0.0.1:{self._port}", service.server, 0)
        return self._inference.enter_context(inference.connected(registry, self._monitoring, service))

    def stop_inference(self) -> None:
        self._inference.close()

    def close(self) -> None:
        self.stop_inference()
        self.stop_registry()


@pytest.fixture
def outage(clone_database: CloneDatabase, monitoring: Running, tmp_path: Path) -> Iterator[Outage]:
    outage = Outage(clone_database("registry"), tmp_path, monitoring)
    outage.start_registry()
    yield outage
    outage.close()


@pytest.mark.slow
def test_predictions_go_on_while_the_registry_is_away_and_it_is_followed_again_afterwards(outage: Outage) -> None:
    suite = outage.start_inference()
    inference.serve(suite, "linear", models.linear())
    assert answering(suite.client) == "1.0.0"
    outage.stop_registry()
    assert [answering(suite.client) for _ in range(20)] == ["1.0.0"] * 20
    assert health(suite.inference) == SERVING
    outage.start_registry()
    inference.register(suite.client, "linear", models.linear(seed=1), version="2.0.0")
    inference.wait_until(lambda: answering(suite.client) == "2.0.0" or None)


@pytest.mark.slow
def test_a_restart_without_the_registry_serves_what_is_on_disk(outage: Outage) -> None:
    suite = outage.start_inference()
    inference.serve(suite, "linear", models.linear())
    expected = suite.client.inference.predict("linear", ROW).outputs["y"]
    outage.stop_inference()
    outage.stop_registry()

    suite = outage.start_inference()
    assert health(suite.inference) == SERVING
    answer = suite.client.inference.predict("linear", ROW)
    assert np.array_equal(answer.outputs["y"], expected)
    # Its event finds its way as ever.
    assert inference.event_of(suite.client, answer.inference_id).event.version == "1.0.0"

    outage.start_registry()
    inference.serve(suite, "later", models.linear())
    assert answering(suite.client, "later") == "1.0.0"


@pytest.mark.slow
def test_a_version_whose_file_was_never_fetched_is_unavailable_while_the_registry_is_away(outage: Outage) -> None:
    suite = outage.start_inference()
    inference.serve(suite, "linear", models.linear())
    outage.stop_registry()
    with pytest.raises(penstock.Unavailable) as caught:
        suite.client.inference.predict("linear", ROW, timeout_s=60)
    assert caught.value.reason == "REGISTRY_UNAVAILABLE"
    assert caught.value.retryable
    outage.start_registry()
    inference.wait_until(lambda: _answering_at_last(suite.client))


def _answering_at_last(client: penstock.Client) -> str | None:
    try:
        return answering(client)
    except penstock.Unavailable:
        return None  # the failed load is remembered for a moment


@pytest.mark.slow
def test_a_file_that_was_damaged_on_disk_is_fetched_anew(outage: Outage) -> None:
    suite = outage.start_inference()
    inference.serve(suite, "linear", models.linear())
    expected = suite.client.inference.predict("linear", ROW).outputs["y"]
    outage.stop_inference()
    (file,) = (outage.folder / "cache" / "models").rglob("*.onnx")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)

    suite = outage.start_inference()
    assert np.array_equal(suite.client.inference.predict("linear", ROW).outputs["y"], expected)
    assert file.read_bytes() != bytes(content)


@pytest.mark.slow
def test_a_file_that_is_damaged_in_the_store_is_refused_and_asked_for_no_more(outage: Outage) -> None:
    suite = outage.start_inference()
    inference.serve(suite, "linear", models.linear())
    (blob,) = (path for path in (outage.folder / "blobs").rglob("*") if path.is_file() and path.stat().st_size > 64)
    content = bytearray(blob.read_bytes())
    content[len(content) // 2] ^= 0xFF
    blob.chmod(0o600)
    blob.write_bytes(content)
    for _ in range(2):
        with pytest.raises(penstock.FailedPrecondition, match="register the version again") as caught:
            answering(suite.client)
        assert caught.value.reason == "ARTIFACT_CORRUPT"
    outage.stop_registry()
    outage.stop_inference()
    suite = outage.start_inference()
    with pytest.raises(penstock.FailedPrecondition) as caught:  # not: the registry cannot be reached
        answering(suite.client)
    assert caught.value.reason == "ARTIFACT_CORRUPT"


def test_before_it_has_heard_of_the_registry_it_is_not_ready_and_then_it_is(outage: Outage) -> None:
    outage.stop_registry()
    suite = outage.start_inference()
    assert health(suite.inference) == NOT_SERVING
    assert not suite.oip.ServerReady(oip.ServerReadyRequest(), timeout=DEADLINE_S).ready
    assert suite.oip.ServerLive(oip.ServerLiveRequest(), timeout=DEADLINE_S).live
    with pytest.raises(penstock.Unavailable) as caught:
        answering(suite.client)
    assert (caught.value.reason, caught.value.retryable) == ("REGISTRY_NOT_HEARD", True)
    outage.start_registry()
    inference.wait_until(lambda: health(suite.inference) == SERVING or None)
    assert suite.oip.ServerReady(oip.ServerReadyRequest(), timeout=DEADLINE_S).ready
    with pytest.raises(penstock.NotFound):
        answering(suite.client)


@pytest.mark.parametrize("damage", [b"", b"\xff\xff\xff", "half"], ids=["emptied", "scribbled", "halved"])
def test_a_snapshot_that_was_damaged_on_disk_is_not_believed(outage: Outage, damage: bytes | str) -> None:
    suite = outage.start_inference()
    inference.serve(suite, "linear", models.linear())
    outage.stop_inference()
    outage.stop_registry()
    snapshot = outage.folder / "cache" / "catalog.binpb"
    whole = snapshot.read_bytes()
    assert WatchModelsResponse.FromString(whole).snapshot.complete
    snapshot.write_bytes(damage if isinstance(damage, bytes) else whole[: len(whole) // 2])

    suite = outage.start_inference()
    with pytest.raises(penstock.Unavailable):  # not: the model does not exist
        answering(suite.client)
    outage.start_registry()
    inference.until_known(suite.oip, "linear")
    assert answering(suite.client) == "1.0.0"


@pytest.mark.slow
def test_another_database_behind_the_registry_is_taken_over_whole(
    outage: Outage, clone_database: CloneDatabase
) -> None:
    suite = outage.start_inference()
    inference.serve(suite, "linear", models.linear(seed=1))
    inference.serve(suite, "gone", models.linear())
    before = suite.client.inference.predict("linear", ROW).outputs["y"]

    outage.stop_registry()
    outage.start_registry(clone_database("registry"))
    inference.wait_until(lambda: not index(suite) or None)
    with pytest.raises(penstock.NotFound):
        answering(suite.client, "gone")
    # The same name and version with other bytes is another model.
    inference.serve(suite, "linear", models.linear(seed=2))
    after = suite.client.inference.predict("linear", ROW).outputs["y"]
    assert not np.array_equal(before, after)
    # Whoever counts by name meets it once; what was counted of its namesake is gone.
    page = inference.metrics_page(suite.inference)
    assert page['nv_inference_request_success{model="linear",version="1.0.0"}'] == 1
    # What is on disk has forgotten the old one too.
    outage.stop_inference()
    outage.stop_registry()
    suite = outage.start_inference()
    assert [entry.name for entry in index(suite)] == ["linear"]


def test_a_version_that_cannot_be_loaded_goes_live_all_the_same(registry: Running, tmp_path: Path) -> None:
    """What is live is the registry's word; the first request hears why it does not load."""

    def prepare(_version: ResolvedVersion) -> None:
        raise RuntimeError("out of luck")

    catalog = Catalog()
    follower = Follower(
        RegistryWatch(penstock.Client(registry=registry.address)),
        CatalogTaker(Takeovers(catalog, prepare, keep)),
        tmp_path,
    )
    follower.open()
    try:
        with penstock.Client(registry=registry.address) as client:
            inference.register(client, "linear", models.linear())
            inference.go_live(client, "linear", "1.0.0")
        inference.wait_until(lambda: catalog.heard or None)
        inference.wait_until(lambda: catalog.models().get("linear"))
        inference.wait_until(lambda: catalog.resolve("linear", "").stage == "production" or None)
    finally:
        follower.close()


def test_a_model_that_takes_its_time_to_load_does_not_keep_the_process_from_ending(
    registry: Running, tmp_path: Path
) -> None:
    loading, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def prepare(_version: ResolvedVersion) -> None:
        loading.set()
        may_end.wait(DEADLINE_S)
        ended.set()

    follower = Follower(
        RegistryWatch(penstock.Client(registry=registry.address)),
        CatalogTaker(Takeovers(Catalog(), prepare, keep)),
        tmp_path,
    )
    follower.open()
    with penstock.Client(registry=registry.address) as client:
        inference.register(client, "linear", models.linear())
        inference.go_live(client, "linear", "1.0.0")
    assert loading.wait(DEADLINE_S)
    follower.close()
    assert not ended.is_set()
    may_end.set()
