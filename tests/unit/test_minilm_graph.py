"""The ONNX graph that the MiniLM example builds, on tiny random weights, against BERT in NumPy alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from examples.minilm.graph import INPUTS, OUTPUT, build
from examples.minilm.weights import BertConfig, read_safetensors
from tests.testdata import bert

CONFIG = bert.tiny_config()
WEIGHTS = bert.random_weights(CONFIG)
IDS, KINDS = [3, 30, 0, 7, 7], [0, 0, 1, 1, 0]


@pytest.fixture(scope="module")
def session() -> Any:
    return onnxruntime.InferenceSession(build(CONFIG, WEIGHTS), providers=["CPUExecutionProvider"])


def ask(session: Any, ids: list[list[int]], mask: list[list[int]], kinds: list[list[int]]) -> Any:
    feeds = dict(zip(INPUTS, (np.array(each, np.int64) for each in (ids, mask, kinds)), strict=True))
    return session.run([OUTPUT], feeds)[0]


def test_it_computes_what_numpy_computes(session: Any) -> None:
    [row] = ask(session, [IDS], [[1] * 5], [KINDS])
    np.testing.assert_allclose(row, bert.embed(CONFIG, WEIGHTS, IDS, KINDS), atol=1e-5)


def test_padding_changes_no_answer(session: Any) -> None:
    padded, other = [*IDS, 9, 9], [1, 2, 3, 4, 5, 6, 7]
    rows = ask(session, [padded, other], [[1] * 5 + [0] * 2, [1] * 7], [[*KINDS, 1, 1], [0] * 7])
    np.testing.assert_allclose(rows[0], bert.embed(CONFIG, WEIGHTS, IDS, KINDS), atol=1e-5)
    np.testing.assert_allclose(rows[1], bert.embed(CONFIG, WEIGHTS, other, [0] * 7), atol=1e-5)


def test_a_row_of_padding_alone_is_finite(session: Any) -> None:
    assert np.isfinite(ask(session, [IDS], [[0] * 5], [KINDS])).all()


def test_the_same_weights_make_the_same_bytes() -> None:
    assert build(CONFIG, WEIGHTS) == build(CONFIG, bert.random_weights(CONFIG))


def test_weights_are_read_as_they_were_written(tmp_path: Path) -> None:
    one, two = np.arange(6, dtype="<f4").reshape(2, 3), np.array([7.5], "<f4")
    header = {
        "__metadata__": {"format": "pt"},
        "one": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "positions": {"dtype": "I64", "shape": [1], "data_offsets": [24, 32]},
        "two": {"dtype": "F32", "shape": [1], "data_offsets": [32, 36]},
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + one.tobytes() + bytes(8) + two.tobytes())
    read = read_safetensors(file)
    assert read.keys() == {"one", "two"}
    np.testing.assert_array_equal(read["one"], one)
    np.testing.assert_array_equal(read["two"], two)


def test_the_sizes_are_read_from_config_json(tmp_path: Path) -> None:
    sizes = {name: getattr(CONFIG, name) for name in BertConfig.__slots__}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", **sizes}))
    assert BertConfig.read(tmp_path / "config.json") == CONFIG
