"""Graphs kept as they were optimised: found again, never trusted when damaged, and bounded."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from services.inference.composition import runtimes_of
from services.inference.runtimes import onnx_graphs
from services.inference.runtimes.onnx_graphs import OptimisedGraphs, key_of
from services.inference.runtimes.onnx_runtime import OnnxRuntime, OnnxSession
from services.inference.runtimes.runtime import Artifact
from services.inference.runtimes.transformers.session import TransformersRuntime
from services.inference.settings import InferenceSettings
from tests.serving import BlobShelf

X = np.random.default_rng(1).standard_normal((2, 8, 9, 9)).astype(np.float32)


def convolution(seed: int = 0, folded: int = 0) -> bytes:
    """A convolution with its normalisation: what is fused, and laid out anew, when it is optimised.

    `folded` adds a constant of so many floats, which the graph computes from a single one.
    """
    generator = np.random.default_rng(seed)
    constants = {
        "w": generator.standard_normal((8, 8, 3, 3)),
        "scale": np.full(8, 2.0),
        "shift": np.ones(8),
        "mean": np.zeros(8),
        "variance": np.ones(8),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["n"]),
        helper.make_node("Relu", ["n"], ["y" if not folded else "r"]),
    ]
    initializers = [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()]
    if folded:
        initializers += [
            numpy_helper.from_array(np.array([folded]), "length"),
            numpy_helper.from_array(np.array(1, np.float32), "one"),
        ]
        nodes += [
            helper.make_node("Expand", ["one", "length"], ["ones"]),
            helper.make_node("Shape", ["x"], ["sizes"]),
            helper.make_node("Gather", ["ones", "sizes"], ["picked"]),
            helper.make_node("ReduceMax", ["picked"], ["factor"], keepdims=0),
            helper.make_node("Mul", ["r", "factor"], ["y"]),
        ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 8, 9, 9]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "convolution", values[:1], values[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.fixture(autouse=True)
def small_graphs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graphs, "SMALLEST_BYTES", 1)


def opened(folder: Path, **limits: int) -> OptimisedGraphs:
    graphs = OptimisedGraphs(folder / "optimised", **limits)
    graphs.open()
    return graphs


def load(folder: Path, graphs: OptimisedGraphs, content: bytes, **settings: object) -> OnnxSession:
    place = folder / "files"
    place.mkdir(exist_ok=True)
    (place / "model.onnx").write_bytes(content)
    runtime = OnnxRuntime(intra_op_threads=1, graphs=graphs, **settings)  # type: ignore[arg-type]
    return runtime.load(Artifact(BlobShelf().version({"model.onnx": content}), place))


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "optimised").iterdir())


def test_the_second_load_takes_what_the_first_one_optimised_and_answers_the_same(tmp_path: Path) -> None:
    plain = OnnxRuntime(intra_op_threads=1)
    graphs = opened(tmp_path)
    first = load(tmp_path, graphs, convolution())
    assert (graphs.writes, graphs.hits) == (1, 0)
    again = opened(tmp_path)  # as another process would
    second = load(tmp_path, again, convolution())
    assert (again.writes, again.hits) == (0, 1)
    untouched = plain.load(Artifact(BlobShelf().version({"model.onnx": b""}), tmp_path / "files"))
    assert second.signature == first.signature == untouched.signature
    for session in (first, second):
        np.testing.assert_array_equal(session.run({"x": X})["y"], untouched.run({"x": X})["y"])
    assert len(kept(tmp_path)) == 1
    inner = second._call.__self__  # type: ignore[union-attr]  # the runtime's own
    level = inner.get_session_options().graph_optimization_level
    assert level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


def test_another_model_and_other_options_have_graphs_of_their_own(tmp_path: Path) -> None:
    graphs = opened(tmp_path)
    load(tmp_path, graphs, convolution())
    load(tmp_path, graphs, convolution(seed=1))
    assert (graphs.writes, graphs.hits) == (2, 0)
    assert key_of("a", "b") != key_of("ab", "") != key_of("a", "c")


def test_a_damaged_graph_is_never_opened_and_made_anew(tmp_path: Path) -> None:
    load(tmp_path, opened(tmp_path), convolution())
    (path,) = kept(tmp_path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    graphs = opened(tmp_path)
    session = load(tmp_path, graphs, convolution())
    assert (graphs.hits, graphs.writes) == (0, 1)
    assert session.run({"x": X})["y"].shape == X.shape
    assert kept(tmp_path)[0].read_bytes() != content


def test_a_graph_that_does_not_open_is_made_anew(tmp_path: Path) -> None:
    load(tmp_path, opened(tmp_path), convolution())
    (path,) = kept(tmp_path)
    key = path.name.split(".")[0]
    path.unlink()
    nonsense = tmp_path / "nonsense"
    nonsense.write_bytes(b"whole, and no graph")
    nonsense.rename(tmp_path / "optimised" / f"{key}.{onnx_graphs._digest_of(nonsense)}.onnx")
    graphs = opened(tmp_path)
    assert load(tmp_path, graphs, convolution()).run({"x": X})["y"].shape == X.shape
    assert graphs.writes == 1
    assert len(kept(tmp_path)) == 1


def test_a_graph_with_data_in_files_beside_it_is_not_kept(tmp_path: Path) -> None:
    import onnx

    place = tmp_path / "files"
    place.mkdir()
    model = onnx.load_from_string(convolution())
    save(model, place / "model.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    files = {path.name: path.read_bytes() for path in place.iterdir()}
    graphs = opened(tmp_path)
    session = OnnxRuntime(intra_op_threads=1, graphs=graphs).load(Artifact(BlobShelf().version(files), place))
    assert session.run({"x": X})["y"].shape == X.shape
    assert kept(tmp_path) == []


def test_a_graph_that_grows_by_folding_is_not_kept_and_not_tried_again(tmp_path: Path) -> None:
    graphs = opened(tmp_path)
    for _ in range(2):
        session = load(tmp_path, graphs, convolution(folded=100_000))
        assert session.run({"x": X})["y"].shape == X.shape
        (mark,) = kept(tmp_path)
        assert mark.name.endswith(".none.onnx")
        assert mark.stat().st_size == 0
    assert graphs.writes == 0


def test_the_least_recently_used_make_room(tmp_path: Path) -> None:
    load(tmp_path, opened(tmp_path), convolution(0))
    (first,) = kept(tmp_path)
    graphs = opened(tmp_path, max_bytes=2 * first.stat().st_size)
    load(tmp_path, graphs, convolution(1))
    (second,) = set(kept(tmp_path)) - {first}
    os.utime(first, (0, 0))
    os.utime(second, (1, 1))
    load(tmp_path, graphs, convolution(0))  # used again, so the other one is the oldest
    load(tmp_path, graphs, convolution(2))
    assert len(kept(tmp_path)) == 2
    assert first.exists()
    assert not second.exists()


def test_room_for_none_keeps_none(tmp_path: Path) -> None:
    assert load(tmp_path, opened(tmp_path, max_bytes=0), convolution()).run({"x": X})["y"].shape == X.shape
    assert kept(tmp_path) == []


def test_a_disk_that_takes_nothing_costs_no_session(tmp_path: Path) -> None:
    graphs = opened(tmp_path)
    (tmp_path / "optimised").rmdir()
    assert load(tmp_path, graphs, convolution()).run({"x": X})["y"].shape == X.shape


def test_what_a_dead_process_was_writing_is_swept_away(tmp_path: Path) -> None:
    opened(tmp_path)
    dead, alive = (tmp_path / "optimised" / f"writing.{pid}.0.onnx" for pid in (2**22 + 1, os.getpid()))
    for path in (dead, alive):
        path.write_bytes(b"half")
    opened(tmp_path)
    assert kept(tmp_path) == [alive]


def test_two_runtimes_that_write_at_once_keep_each_graph_under_its_own_key(tmp_path: Path) -> None:
    """One for ONNX models and one for Transformers bundles write to one folder from one process."""
    (source := tmp_path / "source.onnx").write_bytes(bytes(1000))
    both_write = threading.Barrier(2)

    def write(key: str, content: bytes) -> None:
        with opened(tmp_path).writing(key, source) as path:
            both_write.wait(60)
            path.write_bytes(content)
            both_write.wait(60)

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(write, "a" * 40, b"A" * 500), pool.submit(write, "b" * 40, b"B" * 500)]:
            future.result(60)
    found = [opened(tmp_path).find(key * 40) for key in "ab"]
    assert [path and path.read_bytes()[:1] for path in found] == [b"A", b"B"]


def test_two_models_loaded_at_once_by_two_runtimes_answer_as_themselves_ever_after(tmp_path: Path) -> None:
    together = threading.Barrier(2)

    def first_load(seed: int) -> None:
        (folder := tmp_path / str(seed)).mkdir()
        graphs = opened(tmp_path)
        together.wait(60)
        load(folder, graphs, convolution(seed))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(first_load, (0, 1)))
    for seed in (0, 1):
        graphs = opened(tmp_path)
        answer = load(tmp_path / str(seed), graphs, convolution(seed)).run({"x": X})["y"]
        plain = load(tmp_path / str(seed), opened(tmp_path, max_bytes=0), convolution(seed)).run({"x": X})["y"]
        assert graphs.hits == 1
        np.testing.assert_array_equal(answer, plain)


def test_both_runtimes_of_a_process_share_what_keeps_graphs(tmp_path: Path) -> None:
    builders = runtimes_of(InferenceSettings(cache_dir=tmp_path))
    onnx, transformers = builders["onnx"][0](), builders["transformers"][0]()
    assert isinstance(onnx, OnnxRuntime)
    assert isinstance(transformers, TransformersRuntime)
    assert onnx._graphs is transformers._onnx._graphs is not None


def test_what_an_older_format_kept_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = key_of("a")
    monkeypatch.setattr(onnx_graphs, "_FORMAT", "1")
    assert key_of("a") != now


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_what_others_may_have_planted_is_deleted_and_the_folder_closed_to_them(tmp_path: Path, mode: int) -> None:
    load(tmp_path, opened(tmp_path), convolution())
    (path,) = kept(tmp_path)
    (tmp_path / "optimised").chmod(mode)
    graphs = opened(tmp_path)
    assert kept(tmp_path) == []
    assert (tmp_path / "optimised").stat().st_mode & 0o777 == 0o700
    assert graphs.find(path.name.split(".")[0]) is None
    load(tmp_path, graphs, convolution())
    assert graphs.writes == 1


def test_a_folder_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path, opened(tmp_path), convolution())
    before = kept(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    graphs = opened(tmp_path)
    assert load(tmp_path, graphs, convolution()).run({"x": X})["y"].shape == X.shape
    assert (graphs.hits, graphs.writes) == (0, 0)
    assert kept(tmp_path) == before


def test_a_link_to_a_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "optimised").symlink_to("elsewhere")
    graphs = opened(tmp_path)
    load(tmp_path, graphs, convolution())
    assert (graphs.writes, kept(tmp_path)) == (0, [])


@pytest.mark.parametrize("name", ["writing.x", "writing.", "writing.²", "writing." + "9" * 30, "writing." + "9" * 200])
def test_a_stray_name_is_swept_away_and_stops_nothing(tmp_path: Path, name: str) -> None:
    opened(tmp_path)
    (tmp_path / "optimised" / name).touch()
    opened(tmp_path)
    assert kept(tmp_path) == []
