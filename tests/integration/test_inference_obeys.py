"""What is decided in the registry reaches inference at once: aliases, settings, deletions, a restored database."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest

import penstock
from penstock.api.registry.v1.registry_pb2 import CapturePolicy, ServingSettings, WatchModelsResponse
from services.inference.following.catalog import Catalog
from services.inference.following.follower import CatalogTaker, Follower, RegistryWatch
from services.inference.following.takeovers import Takeovers
from services.inference.models import ResolvedVersion
from tests import inference
from tests.inference import Suite, fp32, infer_request
from tests.postgres import PostgresServer
from tests.registry import refusal
from tests.services import CloneDatabase, running_registry
from tests.testdata import models

ROW = fp32([[1, 2, 3, 4]])


@pytest.fixture(scope="module")
def suite(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """One suite for all: each test has a model of its own."""
    with inference.running_suite(postgres_server, tmp_path_factory.mktemp("suite"), run_limit_ms=1_000) as suite:
        yield suite


def reason(suite: Suite, model: str, version: str = "") -> str:
    """Say why a prediction is refused, or "" where it is answered."""
    try:
        suite.client.inference.predict(model, ROW, version=version)
    except penstock.PenstockError as error:
        return error.reason
    return ""


def loaded(suite: Suite, model: str, version: str) -> bool:
    page = inference.metrics_page(suite.inference)
    return f'penstock_session_bytes{{model="{model}",version="{version}"}}' in page


def test_an_alias_is_answered_by_the_version_that_it_points_at_now(suite: Suite) -> None:
    for version in ("1.0.0", "2.0.0"):
        inference.serve(suite, "aliased", models.linear(), version=version)
    for version in ("1.0.0", "2.0.0"):
        suite.client.registry.set_alias("aliased", "blue", version)
        inference.wait_until(lambda: reason(suite, "aliased", "blue") == "" or None)
        inference.wait_until(
            lambda: suite.client.inference.predict("aliased", ROW, version="blue").version == version or None  # noqa: B023 - called at once
        )
    suite.client.registry.delete_alias("aliased", "blue")
    inference.wait_until(lambda: reason(suite, "aliased", "blue") == "VERSION_NOT_FOUND" or None)


def test_a_deleted_version_answers_nobody_and_leaves_the_memory_and_comes_back(suite: Suite) -> None:
    for version in ("1.0.0", "2.0.0"):
        inference.serve(suite, "deleted", models.linear(seed=1), version=version)
    suite.client.registry.update_version("deleted", "2.0.0", serving_settings=ServingSettings(pinned=True))
    inference.wait_until(lambda: suite.client.inference.predict("deleted", ROW).version == "2.0.0" or None)
    assert loaded(suite, "deleted", "2.0.0")
    suite.client.registry.delete_version("deleted", "2.0.0")
    inference.wait_until(lambda: suite.client.inference.predict("deleted", ROW).version == "1.0.0" or None)
    assert reason(suite, "deleted", "2.0.0") == "VERSION_NOT_FOUND"
    inference.wait_until(lambda: not loaded(suite, "deleted", "2.0.0") or None)
    suite.client.registry.restore_version("deleted", "2.0.0")
    inference.wait_until(lambda: suite.client.inference.predict("deleted", ROW).version == "2.0.0" or None)


def test_a_deleted_model_is_unknown_and_what_was_live_answers_once_it_is_restored(suite: Suite) -> None:
    for version in ("1.0.0", "2.0.0"):
        inference.serve(suite, "gone", models.linear(), version=version)
    inference.go_live(suite.client, "gone", "1.0.0")
    inference.wait_until(lambda: suite.client.inference.predict("gone", ROW).version == "1.0.0" or None)
    suite.client.registry.delete_model("gone", force=True)
    inference.wait_until(lambda: reason(suite, "gone") == "MODEL_NOT_FOUND" or None)
    inference.wait_until(lambda: not loaded(suite, "gone", "1.0.0") or None)
    suite.client.registry.restore_model("gone")
    inference.wait_until(lambda: reason(suite, "gone") == "" or None)
    assert suite.client.inference.predict("gone", ROW).version == "1.0.0"


def test_a_changed_capture_policy_holds_from_then_on_and_loads_nothing_anew(suite: Suite) -> None:
    inference.serve(suite, "quiet", models.linear())

    def captured() -> bool:
        answer = suite.client.inference.predict("quiet", ROW)
        return inference.event_of(suite.client, answer.inference_id).event.HasField("features")

    assert captured()
    loads = inference.metrics_page(suite.inference)["penstock_session_loads_total"]
    suite.client.registry.update_version("quiet", "1.0.0", capture_policy=CapturePolicy(share=0))
    inference.wait_until(lambda: not captured() or None)
    suite.client.registry.update_version("quiet", "1.0.0", capture_policy=CapturePolicy(share=1))
    inference.wait_until(lambda: captured() or None)
    assert inference.metrics_page(suite.inference)["penstock_session_loads_total"] == loads


def second_of_two(suite: Suite) -> str:
    """Have one prediction take all the time that there is, and say why another beside it is refused, or ""."""
    endless = infer_request("narrow", {"x": ROW, "turns": np.array([2**60])})
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(suite.oip.ModelInfer, endless, timeout=inference.DEADLINE_S)
        pending = 'nv_inference_pending_request_count{model="narrow",version="1.0.0"}'
        inference.until_metric(suite.inference, pending, 1)
        try:
            suite.oip.ModelInfer(infer_request("narrow", {"x": ROW, "turns": np.array([1])}))
        except grpc.RpcError as error:
            return refusal(error)[1]
        finally:
            assert running.exception() is not None
    return ""


@pytest.mark.slow
def test_changed_serving_settings_hold_for_the_next_request(suite: Suite) -> None:
    inference.serve(suite, "narrow", models.patient())
    assert second_of_two(suite) == ""
    suite.client.registry.update_version("narrow", "1.0.0", serving_settings=ServingSettings(max_in_flight=1))
    inference.wait_until(lambda: second_of_two(suite) == "QUEUE_FULL" or None)


def nothing(_before: ResolvedVersion, _now: ResolvedVersion | None = None) -> None:
    """Nothing is loaded here."""


@pytest.mark.slow
def test_after_the_registry_was_restored_what_was_known_is_served_until_the_new_truth_is_whole(
    clone_database: CloneDatabase, tmp_path: Path
) -> None:
    database_url, folder = clone_database("registry"), tmp_path / "cache"
    catalog = Catalog()
    with running_registry(database_url, tmp_path) as registry, penstock.Client(registry=registry.address) as client:
        inference.register(client, "kept", models.linear())
        inference.register(client, "lost", models.linear())
        first = Follower(
            RegistryWatch(penstock.Client(registry=registry.address)),
            CatalogTaker(Takeovers(catalog, nothing, nothing)),
            folder,
        )
        first.open()
        inference.wait_until(lambda: len(catalog.models()) == 2 or None)
        first.close()
        known = WatchModelsResponse.FromString((folder / "catalog.binpb").read_bytes())
        assert known.epoch

        # What happened after the backup is gone, and other changes took the revisions.
        client.registry.delete_model("lost")
        _restored(database_url, tmp_path)
        assert set(catalog.models()) == {"kept", "lost"}
        second = Follower(
            RegistryWatch(penstock.Client(registry=registry.address)),
            CatalogTaker(Takeovers(catalog, nothing, nothing)),
            folder,
        )
        second.open()
        try:
            inference.wait_until(lambda: set(catalog.models()) == {"kept"} or None)
            # And in mid-watch.
            _restored(database_url, tmp_path)
            inference.register(client, "later", models.linear())
            inference.wait_until(lambda: set(catalog.models()) == {"kept", "later"} or None)
        finally:
            second.close()
    after = WatchModelsResponse.FromString((folder / "catalog.binpb").read_bytes())
    assert after.epoch not in ("", known.epoch)
    assert {version.model for version in after.snapshot.versions} == {"kept", "later"}


def _restored(database_url: str, folder: Path) -> None:
    settings = {"PENSTOCK_DATABASE_URL": database_url, "PENSTOCK_BLOB_URL": f"file://{folder}/blobs"}
    command = [sys.executable, "-m", "services.registry", "restored"]
    subprocess.run(command, env={**os.environ, **settings}, cwd=folder, check=True, capture_output=True)
