"""Profiles of versions that a real registry (but for its validator) knows, or does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from penstock.api.monitoring.v1 import drift_pb2, quality_pb2
from penstock.api.monitoring.v1 import profiles_pb2 as pb
from penstock.api.monitoring.v1.drift_pb2_grpc import DriftServiceStub
from penstock.api.monitoring.v1.quality_pb2_grpc import QualityServiceStub
from penstock.api.tensors.v1.tensors_pb2 import Signature, TensorSpec
from tests import quick_registry
from tests.live_profiles import NEVER
from tests.monitoring import TIMEOUT_S, new_event, reason
from tests.profiles import NAMES, CloneDatabase, Service, fields, iris_columns, iris_csv, serving, tensors
from tests.quick_registry import Registry
from tests.registry import settings_for

UNKNOWN = (grpc.StatusCode.NOT_FOUND, "VERSION_NOT_FOUND")
NO_MODEL = (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")
LETTERS = ("b", "a", "d", "c")


@pytest.fixture
def registry(clone_database: CloneDatabase, tmp_path: Path) -> Iterator[Registry]:
    with quick_registry.running(settings_for(clone_database("registry"), tmp_path)) as running:
        yield running


@pytest.fixture
def service(clone_database: CloneDatabase, registry: Registry) -> Iterator[Service]:
    with serving(clone_database("monitoring"), registry_address=registry.address, **NEVER) as running:
        yield running


def declare(registry: Registry, version: str, names: tuple[str, ...]) -> None:
    signature = Signature(inputs=[TensorSpec(columns=names)])
    quick_registry.register(registry, version, declared_signature=signature)


def csv(*names: str) -> bytes:
    rows = np.random.default_rng(1).normal(size=(60, len(names)))
    return "\n".join((",".join(names), *(",".join(map(str, row)) for row in rows))).encode()


def test_a_version_that_nobody_knows_is_refused_and_one_that_only_predicted_is_not(
    service: Service, registry: Registry
) -> None:
    quick_registry.register(registry, "1.0.0")
    made = service.upload(iris_csv(), columns=iris_columns())
    assert list(made.warnings) == []
    assert reason(lambda: service.upload(iris_csv(), version="9.9")) == UNKNOWN
    window = pb.WindowSource(from_time=made.create_time, to_time=made.create_time)
    window.to_time.seconds += 1
    assert reason(lambda: service.create(version="9.9", window=window)) == UNKNOWN
    attach = pb.AttachProfileRequest(id=made.id, version="9.9")
    assert reason(lambda: service.stub.AttachProfile(attach, timeout=TIMEOUT_S)) == UNKNOWN
    service.record(new_event(version="9.9", features=fields(dict.fromkeys(NAMES, 1.0))))
    assert list(service.upload(iris_csv(), version="9.9", columns=iris_columns()).warnings) == []


def test_a_model_that_is_misspelt_is_doubted_and_one_that_others_serve_is_taken(
    service: Service, registry: Registry
) -> None:
    quick_registry.register(registry, "1.0.0")
    (warning,) = service.upload(iris_csv(), model="irsi").warnings
    assert "no model 'irsi' is registered" in warning
    assert "did you mean iris?" in warning
    listed = pb.ListProfilesRequest(model="iriss")
    assert reason(lambda: service.stub.ListProfiles(listed, timeout=TIMEOUT_S)) == NO_MODEL
    service.record(new_event(model="foreign", features=fields({"age": 1.0, "city": "x"})))
    assert list(service.upload(csv("age"), model="foreign").warnings) == []
    (warning,) = service.upload(csv("age", "income"), model="foreign").warnings
    assert warning.startswith("income of foreign's profile will be missing in every row: the newest prediction had")
    assert warning.endswith("; the names are age, city")


def test_columns_that_no_input_has_are_named(service: Service, registry: Registry) -> None:
    quick_registry.register(registry, "1.0.0")
    (warning,) = service.upload(csv("a", "b"), request_id="once").warnings
    assert "a, b of iris's profile will be missing in every row" in warning
    assert "the names are x[0], x[1], x[2], x[3]" in warning
    assert list(service.upload(csv("a", "b"), request_id="once").warnings) == [warning]
    assert list(service.get(model="iris", version="1.0.0").warnings) == []


def test_a_file_in_another_order_and_without_a_column_is_compared_by_name(service: Service, registry: Registry) -> None:
    declare(registry, "1.0.0", LETTERS)
    made = service.upload(csv("a", "b", "c"))
    assert list(made.warnings) == []
    row = np.array([[-9.0, 0.0, np.nan, 9.0]], np.float32)
    service.record(*(new_event(features=tensors(x=row)) for _ in range(60)))
    with grpc.insecure_channel(service.monitoring.address) as channel:
        request = drift_pb2.CheckDriftRequest(model="iris", version="1.0.0")
        check = DriftServiceStub(channel).CheckDrift(request, timeout=TIMEOUT_S).check
    found = {result.feature: {one.label.split()[0]: one.live_count for one in result.bins} for result in check.results}
    assert (found["b"]["up"], found["c"]["above"]) == (60, 60)
    assert "missing" not in found["a"]


def test_quality_names_columns_as_they_were_declared(service: Service, registry: Registry) -> None:
    declare(registry, "1.0.0", LETTERS)
    rows = np.ones((60, 4), np.float32)
    rows[:, 2] = np.inf
    service.record(*(new_event(features=tensors(x=row[None, :])) for row in rows))
    with grpc.insecure_channel(service.monitoring.address) as channel:
        request = quality_pb2.CheckQualityRequest(model="iris", version="1.0.0")
        stub = QualityServiceStub(channel)
        check = stub.CheckQuality(request, timeout=TIMEOUT_S).check
        misspelt = quality_pb2.CheckQualityRequest(model="irsi")
        assert reason(lambda: stub.CheckQuality(misspelt, timeout=TIMEOUT_S)) == NO_MODEL
    assert {finding.feature for finding in check.findings if finding.violated} == {"d"}
    assert "x[" not in check.summary
