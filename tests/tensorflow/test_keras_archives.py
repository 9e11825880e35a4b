"""The judgement of `.keras` files before Keras sees them: as archives, in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from services.registry.validation.keras_archive import read_archive
from services.registry.validation.report import FailureReason, Refusal
from tests.tensorflow import saved_models
from tests.tensorflow.saved_models import configure, rewrite, weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("keras") / "model.keras"
    saved_models.dense(path)
    return path.read_bytes()


@pytest.fixture
def dense(made: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "model.keras"
    path.write_bytes(made)
    return path


def refused(path: Path) -> tuple[FailureReason, str]:
    with pytest.raises(Refusal) as caught:
        read_archive(path, lambdas_allowed=False)
    return caught.value.reason, caught.value.message


def test_what_keras_writes_is_let_in(dense: Path, tmp_path: Path) -> None:
    assert read_archive(dense, lambdas_allowed=False) == f"keras {keras.__version__}"
    saved_models.branched(tmp_path / "branched.keras")
    read_archive(tmp_path / "branched.keras", lambdas_allowed=False)


def test_python_inside_is_refused_unless_policy_lets_it_in(tmp_path: Path) -> None:
    saved_models.with_lambda(tmp_path / "model.keras")
    reason, message = refused(tmp_path / "model.keras")
    assert reason is FailureReason.FORBIDDEN_LAYER
    assert "Lambda" in message
    read_archive(tmp_path / "model.keras", lambdas_allowed=True)


def layer(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["config"]["layers"][-1]
    return found


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda config: layer(config).update(class_name="Lambda"), "Lambda"),
        (
            lambda config: layer(config)["config"].update(activation={"class_name": "__lambda__", "config": {}}),
            "Lambda",
        ),
        (lambda config: layer(config).update(module="os", class_name="system"), "'system' (of 'os')"),
        (lambda config: layer(config).update(module="keras.utils", class_name="get_file"), "'get_file'"),
        (lambda config: layer(config).update(module="keras.src.saving", class_name="load_model"), "'load_model'"),
        (lambda config: layer(config).update(module="keras.config"), "keras.config"),
        (lambda config: layer(config).update(module="keras.layers.__builtins__"), "__builtins__"),
        (lambda config: layer(config).update(module=None), "'None'"),
        (lambda config: layer(config).update(module="acme.layers", registered_name="Acme>Dense"), "acme.layers"),
        (lambda config: layer(config).update(registered_name="Acme>Dense"), "'Dense'"),
        (lambda config: layer(config).update(class_name="TFSMLayer"), "'TFSMLayer'"),
        (lambda config: layer(config).update(class_name=["Dense"]), "Dense"),
        (
            lambda config: layer(config)["config"].update(
                activation={"class_name": "function", "module": "subprocess", "config": "run"}
            ),
            "'run' (of 'subprocess')",
        ),
        (lambda config: layer(config)["config"].update(vocabulary="/etc/passwd"), "'/etc/passwd'"),
        (lambda config: config["compile_config"].update(loss={"class_name": "X", "module": "x", "config": {}}), "'X'"),
    ],
)
def test_a_configuration_that_reaches_out_is_refused(
    dense: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    configure(dense, change)
    reason, message = refused(dense)
    assert reason is FailureReason.FORBIDDEN_LAYER
    assert said in message


def external_data(file: Any) -> None:
    file.create_dataset("w", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def virtual_data(file: Any) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "w", (4,))
    file.create_virtual_dataset("w", layout)


def external_link(file: Any) -> None:
    file["w"] = h5py.ExternalLink("/etc/passwd", "/w")


def soft_link(file: Any) -> None:
    file["deep/w"] = h5py.SoftLink("/elsewhere")


@pytest.mark.parametrize("write", [external_data, virtual_data, external_link, soft_link])
def test_weights_that_point_elsewhere_are_refused(dense: Path, write: Callable[[Any], None]) -> None:
    rewrite(dense, model__weights__h5=weights(write))
    reason, message = refused(dense)
    assert reason is FailureReason.UNSAFE_FILE
    assert "w'" in message


@pytest.mark.parametrize(
    ("members", "reason", "said"),
    [
        ({"assets_in_vocabulary__txt": b"a"}, FailureReason.UNSAFE_FILE, "'assets/vocabulary.txt'"),
        ({"___in____in_etc_in_cron": b"a"}, FailureReason.UNSAFE_FILE, "would be unpacked"),
        ({"model__weights__npz": b"a"}, FailureReason.UNSAFE_FILE, "'model.weights.npz'"),
        ({"config__json": None}, FailureReason.NOT_KERAS, "each once"),
        ({"config__json": b"{"}, FailureReason.NOT_KERAS, "'config.json' in the .keras file is no JSON object"),
        ({"config__json": b"[" * 2_000}, FailureReason.NOT_KERAS, "no JSON object"),
        ({"config__json": b" " * 2**20}, FailureReason.UNSAFE_FILE, "1,048,576 bytes from"),
        ({"model__weights__h5": b"none"}, FailureReason.NOT_KERAS, "cannot be read"),
        ({"model__weights__h5": bytes(2**24)}, FailureReason.UNSAFE_FILE, "16,777,216 bytes from"),
    ],
)
def test_an_archive_of_other_things_is_refused(
    dense: Path, members: dict[str, bytes | None], reason: FailureReason, said: str
) -> None:
    rewrite(dense, **members)
    found, message = refused(dense)
    assert found is reason
    assert said in message


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"])
def test_other_bytes_are_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.keras").write_bytes(content)
    assert refused(tmp_path / "model.keras")[0] is FailureReason.NOT_KERAS


def test_an_archive_cut_anywhere_is_refused_in_words(dense: Path) -> None:
    whole = dense.read_bytes()
    for length in np.linspace(1, len(whole) - 1, 40, dtype=int):
        dense.write_bytes(whole[:length])
        assert refused(dense)[0] is FailureReason.NOT_KERAS


def test_an_archive_with_any_byte_changed_never_breaks_the_reader(dense: Path) -> None:
    whole = dense.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 80, dtype=int):
        dense.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with contextlib.suppress(Refusal):
            read_archive(dense, lambdas_allowed=False)
