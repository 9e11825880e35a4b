"""A service's own key is replaced without a restart: its calls go on, and its streams begin anew under the new one."""

from __future__ import annotations

from pathlib import Path

import pytest

import penstock
from penstock import rotation
from services.common import keys
from tests.certificates import replace
from tests.embedded import eventually
from tests.kit import Kit, write_keys
from tests.services import CloneDatabase, running_inference, running_monitoring, running_registry
from tests.suite import FLOWER
from tests.testdata import models


@pytest.fixture(autouse=True)
def look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "LOOK_INTERVAL_S", 0.0)
    monkeypatch.setattr(keys, "RELOAD_INTERVAL_S", 0.01)
    monkeypatch.setattr("services.common.server.SWEEP_INTERVAL_S", 0.05)


def test_new_calls_show_the_key_that_the_file_holds_now(tmp_path: Path) -> None:
    token = tmp_path / "token"
    replace(token, b"old\n")
    write_keys(tmp_path / "keys.json", old="viewer", new="viewer")
    with (
        Kit(tmp_path, keys_file=tmp_path / "keys.json").running() as kit,
        penstock.Client(monitoring=f"127.0.0.1:{kit.port}", token_file=token) as client,
    ):
        name = client.monitoring.get_inference("any").event.inference_id
        assert name == "old"
        replace(token, b"new\n")
        assert client.monitoring.get_inference("any").event.inference_id == "new"
        for useless in (b"", b"two\nlines", b"\xff"):
            replace(token, useless)
            assert client.monitoring.get_inference("any").event.inference_id == "new"
        token.unlink()
        assert client.monitoring.get_inference("any").event.inference_id == "new"


def test_a_token_file_of_no_use_is_said_by_the_first_call(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("")
    with penstock.Client(token_file=token) as client, pytest.raises(penstock.InvalidArgument) as refused:
        client.registry.get_model("iris")
    assert refused.value.reason == "BROKEN_TOKEN_FILE"
    with pytest.raises(penstock.InvalidArgument) as refused:
        penstock.Client(token="one", token_file=token)
    assert refused.value.reason == "TWO_TOKENS"


def test_a_token_file_goes_to_no_other_machine_in_plain_text(tmp_path: Path) -> None:
    with pytest.raises(penstock.InvalidArgument) as refused:
        penstock.Client(registry="models.example:50051", token_file=tmp_path / "token")
    assert refused.value.reason == "TOKEN_OVER_INSECURE_CHANNEL"


@pytest.mark.slow
def test_inference_changes_its_key_while_it_serves(clone_database: CloneDatabase, tmp_path: Path) -> None:
    token, keys_file = tmp_path / "token", tmp_path / "keys.json"
    replace(token, b"old")
    write_keys(keys_file, old="operator", new="operator", ada="admin")
    with (
        running_registry(clone_database("registry"), tmp_path, keys_file=keys_file) as registry,
        running_monitoring(clone_database("monitoring"), keys_file=keys_file) as monitoring,
        running_inference(
            tmp_path,
            registry=registry.address,
            monitoring=monitoring.address,
            keys_file=keys_file,
            service_token_file=token,
        ) as inference,
        penstock.Client(
            registry=registry.address, monitoring=monitoring.address, inference=inference.address, token="ada"
        ) as ada,
    ):
        ada.registry.register_version("one", "1", models.classifier(), framework="onnx")
        eventually(lambda: predicts(ada, "one"))
        replace(token, b"new")
        write_keys(keys_file, new="operator", ada="admin")  # the old one is revoked: the watch under it ends
        ada.registry.register_version("two", "1", models.classifier(), framework="onnx")
        eventually(lambda: predicts(ada, "two"))
        inference_id = ada.inference.predict("two", FLOWER).inference_id
        eventually(lambda: recorded(ada, inference_id))


def predicts(client: penstock.Client, model: str) -> bool:
    try:
        client.inference.predict(model, FLOWER)
    except (penstock.NotFound, penstock.Unavailable):
        return False
    return True


def recorded(client: penstock.Client, inference_id: str) -> bool:
    try:
        client.monitoring.get_inference(inference_id)
    except penstock.NotFound:
        return False
    return True
