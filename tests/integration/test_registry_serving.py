"""Serving settings through the whole registry: field by field, kept by PostgreSQL, inherited, audited, refused."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from penstock.api.registry.v1 import administration_pb2
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.tensors import to_tensor
from penstock.values import to_struct
from tests import catalogue
from tests.catalogue import INVALID, Catalogue, get_model, get_version, refused


@pytest.fixture
def running(clone_database: Callable[[str], str], tmp_path: Path) -> Iterator[Catalogue]:
    with catalogue.served(clone_database("registry"), tmp_path) as opened:
        catalogue.register(opened.stub, "1")
        yield opened


def full(signature_input: str) -> pb.ServingSettings:
    return pb.ServingSettings(
        max_in_flight=1, pinned=True, max_batch_size=2, max_queue_delay_us=3, max_queue_size=4,
        queue_full_action=pb.QUEUE_FULL_ACTION_DISPLACE, priority_levels=5, default_priority=5, timeout_ms=6,
        instances=7, warm_up=[pb.WarmUpRequest(tensors=[to_tensor(signature_input, [b"\x00\xff"])])], preload=True,
        response_cache=pb.ResponseCachePolicy(enabled=True, ttl_ms=8, max_answer_bytes=9),
        feature_view=filled(signature_input),
    )  # fmt: skip


def filled(signature_input: str) -> pb.FeatureViewPolicy:
    return pb.FeatureViewPolicy(
        view="words@2", names={signature_input: "text"}, missing_action=pb.MISSING_FEATURE_ACTION_USE_DEFAULT,
        defaults=to_struct({signature_input: "none"}),
    )  # fmt: skip


def input_of(version: pb.ModelVersion) -> str:
    return version.signature.inputs[0].name


def test_each_field_can_be_set_by_itself_and_cleared_by_itself(running: Catalogue) -> None:
    settings = full(input_of(get_version(running.stub, "1")))
    names = [field.name for field in pb.ServingSettings.DESCRIPTOR.fields if field.message_type is None]
    names.append("warm_up")
    # The contract names the levels before the default, which needs them.
    paths = [f"serving_settings.{name}" for name in names]
    for policy in ("response_cache", "feature_view"):
        fields = getattr(settings, policy).DESCRIPTOR.fields
        paths += [f"serving_settings.{policy}.{field.name}" for field in fields]
    update = partial(catalogue.update_version, running.stub)
    before = pb.ServingSettings()
    for path in paths:
        found = update([path], serving_settings=settings).serving_settings
        assert found != before, path
        before = found
    assert before == settings == get_version(running.stub, "1").serving_settings
    for path in reversed(paths):
        update([path])
    assert get_version(running.stub, "1").serving_settings == pb.ServingSettings()
    assert update(
        ["serving_settings.response_cache"], serving_settings=settings
    ).serving_settings.response_cache.enabled


def test_new_versions_inherit_all_of_it_and_a_whole_replaces_it(running: Catalogue) -> None:
    settings = full(input_of(get_version(running.stub, "1")))
    catalogue.update_model(running.stub, ["serving_settings"], serving_settings=settings)
    assert get_model(running.stub).serving_settings == settings
    assert catalogue.register(running.stub, "2").serving_settings == settings
    own = pb.ServingSettings(timeout_ms=1)
    assert catalogue.register(running.stub, "3", serving_settings=own).serving_settings == own


@pytest.mark.parametrize(
    ("paths", "settings", "reason", "field"),
    [
        (["serving_settings"], pb.ServingSettings(max_batch_size=65_537), "OUT_OF_BOUNDS", "max_batch_size"),
        (["serving_settings.default_priority"], pb.ServingSettings(default_priority=2, priority_levels=2),
         "OUT_OF_BOUNDS", "default_priority"),
        (["serving_settings.warm_up"], pb.ServingSettings(warm_up=[
            pb.WarmUpRequest(tensors=[to_tensor("who", [1])])]), "SIGNATURE_MISMATCH", "warm_up[0].tensors[0]"),
        (["serving_settings.feature_view"], pb.ServingSettings(feature_view=pb.FeatureViewPolicy(
            view="words", names={"who": "text"})), "SIGNATURE_MISMATCH", "feature_view.names"),
        (["serving_settings.feature_view"], pb.ServingSettings(feature_view=pb.FeatureViewPolicy(view="words@0")),
         "INVALID_NAME", "feature_view.view"),
        (["serving_settings.feature_view"], pb.ServingSettings(feature_view=pb.FeatureViewPolicy(
            defaults=to_struct({"who": [1]}))), "INVALID_FIELDS", "feature_view.defaults"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_its_field(
    running: Catalogue, paths: list[str], settings: pb.ServingSettings, reason: str, field: str
) -> None:
    change = partial(catalogue.update_version, running.stub, paths, serving_settings=settings)
    assert refused(change) == (INVALID, reason, [f"serving_settings.{field}"])
    assert get_version(running.stub, "1").serving_settings == pb.ServingSettings()


def test_a_registration_is_held_to_the_same(running: Catalogue) -> None:
    wrong: Any = partial(catalogue.register, running.stub, "2")
    alone = pb.ServingSettings(default_priority=2)
    assert refused(partial(wrong, serving_settings=alone))[2] == ["serving_settings.default_priority"]
    other = pb.ServingSettings(warm_up=[pb.WarmUpRequest(tensors=[to_tensor("who", [1])])])
    assert refused(partial(wrong, serving_settings=other))[1] == "SIGNATURE_MISMATCH"


def test_the_audit_tells_warm_up_tensors_by_their_digest(running: Catalogue) -> None:
    name = input_of(get_version(running.stub, "1"))
    tensor = to_tensor(name, [b"x" * 1_000_000])
    settings = pb.ServingSettings(warm_up=[pb.WarmUpRequest(tensors=[tensor])], max_batch_size=8)
    catalogue.update_version(running.stub, ["serving_settings"], serving_settings=settings)
    request = administration_pb2.ListAuditEntriesRequest(action="UpdateVersion")
    (entry,) = running.administration.ListAuditEntries(request, timeout=catalogue.DEADLINE_S).entries
    after = MessageToDict(entry.after)["serving_settings"]
    assert after["max_batch_size"] == 8
    (told,) = after["warm_up"][0]["tensors"]
    assert (told["name"], told["raw"]) == (name, f"sha256:{hashlib.sha256(tensor.raw).hexdigest()}")
    assert entry.ByteSize() < 10_000
