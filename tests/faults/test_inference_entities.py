"""Predictions by entity while the registry is away, or hangs: refused in time, and no other prediction is touched."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from onnx import TensorProto

from penstock import Client, DeadlineExceeded, PenstockError, Unavailable
from tests import inference
from tests.faults.proxy import Proxy
from tests.services import CloneDatabase, running_inference, running_registry
from tests.testdata import models

pytestmark = pytest.mark.slow
COLUMNS = ("a", "b", "c", "d")
WHOLE = {"x": [1, 2, 3, 4]}


def test_a_registry_that_is_away_or_hangs_costs_predictions_by_entity_their_answer_alone(
    clone_database: CloneDatabase, tmp_path: Path
) -> None:
    with (
        running_registry(clone_database("registry"), tmp_path) as registry,
        Proxy(int(registry.address.rpartition(":")[2])) as between,
        running_inference(
            tmp_path, registry=between.address, monitoring="127.0.0.1:1", feature_timeout_ms=1_000, capture=False
        ) as service,
        Client(registry=registry.address, inference=service.address) as client,
    ):
        client.features.create_view("v", entity="e", features=dict.fromkeys(COLUMNS, "float64"))
        client.features.write("v", ["ada"], {each: [1.0] for each in COLUMNS})
        inference.register(client, "m", models.identity(TensorProto.FLOAT), columns=COLUMNS)
        client.registry.update_version("m", "1.0.0", serving_settings={"feature_view": {"view": "v"}})
        inference.wait_until(lambda: answered(client))

        between.cut()
        with pytest.raises(Unavailable) as away:
            client.inference.predict("m", entity_ids=["ada"])
        assert (away.value.reason, away.value.retryable) == ("FEATURES_UNAVAILABLE", True)
        assert away.value.retry_after_s
        assert client.inference.predict("m", WHOLE).outputs["y"].tolist() == [WHOLE["x"]]
        assert client.inference.predict("m", WHOLE, entity_ids=["ada"]).lookup is None
        between.heal()
        inference.wait_until(lambda: answered(client))

        between.deafen()
        began = time.monotonic()
        with pytest.raises(Unavailable, match="did not answer within 1 s"):
            client.inference.predict("m", entity_ids=["ada"])
        assert time.monotonic() - began < inference.DEADLINE_S / 2, "it waited for longer than it may"
        with pytest.raises(DeadlineExceeded):
            client.inference.predict("m", entity_ids=["ada"], timeout_s=0.1)
        assert client.inference.predict("m", WHOLE).outputs["y"].tolist() == [WHOLE["x"]]
        between.heal()
        inference.wait_until(lambda: answered(client))


def answered(client: Client) -> bool | None:
    try:
        return client.inference.predict("m", entity_ids=["ada"]).outputs["y"].tolist() == [[1.0] * 4] or None
    except PenstockError:
        return None
