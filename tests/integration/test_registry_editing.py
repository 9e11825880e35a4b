"""Changing models and versions: masks, etags, defaults that versions inherit, and what watchers hear."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from penstock.api.registry.v1 import administration_pb2
from penstock.api.registry.v1 import registry_pb2 as pb
from tests import catalogue
from tests.catalogue import ABORTED, INVALID, NOT_FOUND, Catalogue, get_model, get_version, refused
from tests.registry import refusal

CRITERION = pb.SuccessCriterion(metric="accuracy", comparison=pb.COMPARISON_AT_LEAST, threshold=0.9)


@pytest.fixture
def running(clone_database: Callable[[str], str], tmp_path: Path) -> Iterator[Catalogue]:
    with catalogue.served(clone_database("registry"), tmp_path) as opened:
        catalogue.register(opened.stub, "1")
        yield opened


def revision(running: Catalogue) -> int:
    """The registry's newest revision."""
    watch = running.stub.WatchModels(pb.WatchModelsRequest(), timeout=catalogue.DEADLINE_S)
    try:
        return int(next(watch).revision)
    finally:
        watch.cancel()


def changes_logged(running: Catalogue) -> int:
    request = administration_pb2.ListAuditEntriesRequest(page_size=1_000)
    return len(running.administration.ListAuditEntries(request, timeout=catalogue.DEADLINE_S).entries)


def test_what_the_mask_names_changes_and_nothing_else(running: Catalogue) -> None:
    update = partial(catalogue.update_model, running.stub)
    update(["description", "tags", "labels"], description="flowers", tags=["botany"], labels={"team": "ada"})
    model = update(["labels"], description="ignored", labels={"team": "bob"})
    assert (model.description, list(model.tags), dict(model.labels)) == ("flowers", ["botany"], {"team": "bob"})
    model = update(["description", "labels"])
    assert (model.description, list(model.tags), dict(model.labels)) == ("", ["botany"], {})
    assert model == get_model(running.stub)

    update_version = partial(catalogue.update_version, running.stub)
    update_version(["serving_settings"], serving_settings=pb.ServingSettings(max_in_flight=3, pinned=True))
    policy = pb.CapturePolicy(share=0.25, max_bytes=7)
    version = update_version(["serving_settings.max_in_flight", "capture_policy"], capture_policy=policy)
    assert (version.serving_settings.max_in_flight, version.serving_settings.pinned) == (0, True)
    assert version.capture_policy == policy
    version = update_version(["capture_policy.share"])
    assert not version.capture_policy.HasField("share")
    assert version.capture_policy.max_bytes == 7
    version = update_version(["description", "labels"], description="small", labels={"env": "test/eu"})
    assert (version.description, dict(version.labels)) == ("small", {"env": "test/eu"})
    assert version == get_version(running.stub, "1")


@pytest.mark.parametrize(
    "paths", [[], ["name"], ["etag"], ["labels.team"], ["*"], ["descripton"], ["training_config.recipe"], ["tags"] * 65]
)
def test_a_mask_that_names_what_does_not_change_is_refused(running: Catalogue, paths: list[str]) -> None:
    assert refused(partial(catalogue.update_model, running.stub, paths)) == (INVALID, "INVALID_MASK", ["update_mask"])
    with pytest.raises(grpc.RpcError, match="allowed are description, labels, serving_settings, capture_policy"):
        catalogue.update_version(running.stub, [*paths[:2], "state"])


@pytest.mark.parametrize(
    ("path", "value", "reason", "field"),
    [
        ("description", "x" * 4_097, "INVALID_TEXT", "description"),
        ("tags", ["t"] * 65, "TOO_MANY", "tags"),
        ("tags", ["t" * 65], "INVALID_TEXT", "tags"),
        ("labels", {f"k{n}": "" for n in range(65)}, "TOO_MANY", "labels"),
        ("labels", {"Team": "ada"}, "INVALID_NAME", "labels"),
        ("labels", {"k" * 64: "ada"}, "INVALID_NAME", "labels"),
        ("labels", {"team": "x" * 256}, "INVALID_TEXT", "labels[team]"),
        ("serving_settings", pb.ServingSettings(max_in_flight=-1), "OUT_OF_BOUNDS", "serving_settings.max_in_flight"),
        ("capture_policy", pb.CapturePolicy(share=2), "OUT_OF_BOUNDS", "capture_policy.share"),
        ("training_config", pb.TrainingConfig(success_criteria=[CRITERION] * 33), "TOO_MANY",
         "training_config.success_criteria"),
        ("training_config", pb.TrainingConfig(success_criteria=[pb.SuccessCriterion(metric="a")]),
         "INVALID_CRITERION", "training_config.success_criteria[0].comparison"),
        ("training_config", pb.TrainingConfig(success_criteria=[
            pb.SuccessCriterion(metric="a", comparison=pb.COMPARISON_AT_MOST, threshold=float("inf"))]),
         "INVALID_CRITERION", "training_config.success_criteria[0].threshold"),
        ("training_config", pb.TrainingConfig(success_criteria=[
            pb.SuccessCriterion(comparison=pb.COMPARISON_AT_LEAST)]),
         "INVALID_METRIC", "training_config.success_criteria[0].metric"),
    ],
)  # fmt: skip
def test_a_bad_value_names_its_field_and_counts_only_where_the_mask_names_it(
    running: Catalogue, path: str, value: Any, reason: str, field: str
) -> None:
    before = get_model(running.stub)
    assert refused(partial(catalogue.update_model, running.stub, [path], **{path: value})) == (INVALID, reason, [field])
    other = "tags" if path == "description" else "description"
    catalogue.update_model(running.stub, [other], **{path: value})
    assert get_model(running.stub) == before


def test_a_change_that_changes_nothing_leaves_no_trace(running: Catalogue) -> None:
    labels = {"team": "ada"}
    catalogue.update_model(running.stub, ["labels"], labels=labels)
    catalogue.update_version(running.stub, ["labels"], labels=labels)
    before = (get_model(running.stub), get_version(running.stub, "1"), revision(running), changes_logged(running))
    catalogue.update_model(running.stub, ["labels", "description"], labels=labels)
    catalogue.update_version(running.stub, ["labels", "serving_settings.pinned"], labels=labels)
    assert before == (
        get_model(running.stub), get_version(running.stub, "1"), revision(running), changes_logged(running),
    )  # fmt: skip


def test_a_changed_version_reaches_watchers_and_a_changed_model_does_not(running: Catalogue) -> None:
    before = revision(running)
    catalogue.update_model(running.stub, ["description"], description="flowers")
    assert revision(running) == before
    watch = running.stub.WatchModels(pb.WatchModelsRequest(after_revision=before), timeout=catalogue.DEADLINE_S)
    catalogue.update_version(
        running.stub, ["serving_settings.pinned"], serving_settings=pb.ServingSettings(pinned=True)
    )
    change = next(message for message in watch if message.WhichOneof("event") == "change")
    watch.cancel()
    assert change.revision == before + 1
    assert [version.serving_settings.pinned for version in change.change.versions] == [True]


def test_a_training_config_counts_its_changes_and_takes_no_number(running: Catalogue) -> None:
    parameters = Struct()
    parameters.update({"depth": 3, "names": ["a", None], "deep": {"rate": 0.5}})
    config = pb.TrainingConfig(
        recipe="sklearn", parameters=parameters, data_source="iris", success_criteria=[CRITERION], number=77
    )
    update = partial(catalogue.update_model, running.stub, ["training_config"])
    first = update(training_config=config).training_config
    assert first.number == 1
    assert update(training_config=config).training_config.number == 1
    config.number = 1
    assert first == config
    assert update().training_config == pb.TrainingConfig(number=2)


def test_new_versions_inherit_the_settings_that_they_do_not_bring(running: Catalogue) -> None:
    settings, policy = pb.ServingSettings(pinned=True, max_in_flight=2), pb.CapturePolicy(disabled=True)
    catalogue.update_model(
        running.stub, ["serving_settings", "capture_policy"], serving_settings=settings, capture_policy=policy
    )
    heir = catalogue.register(running.stub, "2")
    assert (heir.serving_settings, heir.capture_policy) == (settings, policy)
    own = catalogue.register(
        running.stub, "3", serving_settings=pb.ServingSettings(), capture_policy=pb.CapturePolicy()
    )
    assert (own.serving_settings, own.capture_policy) == (pb.ServingSettings(), pb.CapturePolicy())
    assert not get_version(running.stub, "1").serving_settings.pinned


def test_what_was_changed_since_it_was_read_is_not_changed_over_it(running: Catalogue) -> None:
    model, version = get_model(running.stub), get_version(running.stub, "1")
    changed = catalogue.update_model(running.stub, ["description"], description="a", etag=model.etag)
    assert changed.etag != model.etag
    late = partial(catalogue.update_model, running.stub, ["description"], description="a", etag=model.etag)
    assert refused(late)[:2] == (ABORTED, "ETAG_MISMATCH")

    changed_version = catalogue.update_version(running.stub, ["description"], description="a", etag=version.etag)
    assert changed_version.etag != version.etag
    assert get_model(running.stub).etag == changed.etag
    later = partial(catalogue.update_version, running.stub, ["description"], description="b", etag=version.etag)
    assert refused(later)[:2] == (ABORTED, "ETAG_MISMATCH")
    assert get_version(running.stub, "1") == changed_version


def test_of_two_changes_of_one_version_with_one_etag_exactly_one_wins(running: Catalogue) -> None:
    for _ in range(5):
        etag = get_version(running.stub, "1").etag
        start = threading.Barrier(4)

        def change(name: str, start: threading.Barrier = start, etag: str = etag) -> str:
            start.wait()
            try:
                changed = catalogue.update_version(running.stub, ["description"], description=name, etag=etag)
            except grpc.RpcError as error:
                return refusal(error)[1]
            return changed.description

        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(change, [f"{etag}-{number}" for number in range(4)]))
        assert results.count("ETAG_MISMATCH") == 3
        assert get_version(running.stub, "1").description in results


def test_what_is_not_there_is_not_changed(running: Catalogue) -> None:
    missing = refused(partial(catalogue.update_model, running.stub, ["description"], name="nosuch"))
    assert missing[:2] == (NOT_FOUND, "MODEL_NOT_FOUND")
    missing = refused(partial(catalogue.update_version, running.stub, ["description"], version="9"))
    assert missing[:2] == (NOT_FOUND, "VERSION_NOT_FOUND")
    assert refused(partial(catalogue.update_model, running.stub, ["tags"], name="a/b"))[2] == ["model.name"]
