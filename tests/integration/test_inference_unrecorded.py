"""Predictions that leave no event: operators alone may ask for them, and monitoring hears of none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr

import penstock
from penstock.cli.keys_file import KeysFile, Kind, Role
from penstock.predictions import make_request
from tests import inference
from tests.services import CloneDatabase, running_inference, running_monitoring, running_registry
from tests.testdata import models

pytestmark = pytest.mark.slow
ROWS = np.ones((2, 4), np.float32)


@pytest.fixture
def clients(clone_database: CloneDatabase, tmp_path: Path) -> Iterator[tuple[penstock.Client, penstock.Client]]:
    """A suite that wants keys; gives a viewer's client and an operator's."""
    keys = tmp_path / "keys.json"
    _, viewer = KeysFile(keys).create("ada", Role.VIEWER)
    _, operator = KeysFile(keys).create("grace", Role.OPERATOR)
    _, service = KeysFile(keys).create("inference", Role.OPERATOR, kind=Kind.SERVICE)
    with (
        running_registry(clone_database("registry"), tmp_path, keys_file=keys) as registry,
        running_monitoring(clone_database("monitoring"), keys_file=keys) as monitoring,
        running_inference(
            tmp_path,
            registry=registry.address,
            monitoring=monitoring.address,
            keys_file=keys,
            service_token=SecretStr(service),
        ) as served,
    ):
        addresses: dict[str, Any] = {
            "registry": registry.address,
            "monitoring": monitoring.address,
            "inference": served.address,
        }
        with penstock.Client(token=viewer, **addresses) as ada, penstock.Client(token=operator, **addresses) as grace:
            inference.register(grace, "quiet", models.classifier())
            yield ada, grace


def test_operators_alone_predict_without_an_event(clients: tuple[penstock.Client, penstock.Client]) -> None:
    viewer, operator = clients
    recorded = inference.wait_until(lambda: _answered(viewer))
    with pytest.raises(penstock.PermissionDenied) as refused:
        viewer.inference.predict("quiet", ROWS, skip_event=True)
    assert refused.value.reason == "ROLE_TOO_WEAK"
    unheard = make_request("quiet", ROWS, skip_event=True)
    (streamed,) = viewer.inference.predict_stream([unheard])
    assert isinstance(streamed, penstock.PermissionDenied), "a stream is no way around it"

    assert operator.inference.predict("quiet", ROWS, skip_event=True).inference_id
    (streamed,) = operator.inference.predict_stream([unheard])
    assert not isinstance(streamed, Exception)
    with pytest.raises(penstock.InvalidArgument):
        operator.inference.predict("quiet", {"X": [1.0]}, skip_event=True)
    # The spool keeps its order: once the last event is there, any that was left before it would be, too.
    last = operator.inference.predict("quiet", ROWS)
    inference.event_of(operator, last.inference_id)
    events = operator.monitoring.list_inferences(model="quiet")
    assert {each.event.inference_id for each in events} == {recorded, last.inference_id}


def _answered(client: penstock.Client) -> str | None:
    try:
        return client.inference.predict("quiet", ROWS).inference_id
    except penstock.NotFound:
        return None  # it has not heard of the version yet; that leaves an event without a version
