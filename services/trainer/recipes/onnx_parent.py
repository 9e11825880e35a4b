"""An ONNX graph beside the parent that it was made of: the same rows to both, and how far their answers are apart.

Imported by recipes while they run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

# Since 1.29 ONNX Runtime reports to its makers over the network, unless told not to before it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
from numpy.typing import NDArray

from services.common.model_files import main_graph
from services.common.onnx_outputs import DATATYPES, as_tensor, composite_type
from services.trainer.faults import TrainingFailed
from services.trainer.recipes.columns import numbers_of, require, texts_in
from services.trainer.recipes.context import Context
from services.trainer.recipes.parent_version import ParentVersion, files_of
from services.trainer.task import Column

Array = NDArray[Any]
_DTYPES: Final = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
_OPEN_SIZES: Final = (8, 1, 32, 224)
_WORDS: Final = ("a", "b", "the quick brown fox", "", "42", "naïve")
_FATAL_ONLY: Final = 4
_SENTENCE_CHARS: Final = 800


class Graph:
    """A graph that is open; runs are on the threads that this process may use."""

    def __init__(self, path: Path) -> None:
        """Open it; raises TrainingFailed(INVALID_OUTCOME) where ONNX Runtime does not."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
        options.log_severity_level = _FATAL_ONLY  # the rest comes as an exception
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's share no base
            raise _failed(f"ONNX Runtime does not open {path.name}: {error}") from error
        self.inputs = {each.name: (DATATYPES.get(each.type, ""), each.shape) for each in self._session.get_inputs()}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Give all outputs, in order, as tensors; raises TrainingFailed(INVALID_OUTCOME) where it does not run."""
        outputs = self._session.get_outputs()
        try:
            answers = self._session.run([each.name for each in outputs], dict(inputs))
            return {
                each.name: as_tensor(answer, (composite_type(each.type) or (DATATYPES.get(each.type, ""), ()))[0])
                for each, answer in zip(outputs, answers, strict=True)
            }
        except Exception as error:  # likewise
            raise _failed(f"ONNX Runtime does not run the graph: {error}") from error


@dataclass(frozen=True, slots=True)
class OnnxParent:
    """The parent's graph.

    Attributes:
        version: what the registry says of it.
        path: its file, relative to the version's folder.
        source: where it lies.
        graph: the same, open.
        label: the label's column.
    """

    version: ParentVersion
    path: str
    source: Path
    graph: Graph
    label: str

    @classmethod
    def open(cls, context: Context, label: str) -> Self:
        """Open it; raises TrainingFailed(INVALID_PARAMETERS) where the parent has no ONNX graph."""
        version, files = ParentVersion.read(context.folder), files_of(context.folder)
        path = main_graph(files)
        if path is None:
            there = ", ".join(files[:8]) or "no file"
            raise TrainingFailed(
                f"the parent has no ONNX graph (it has {there}); name a parent that is ONNX, or train one with "
                "keras-mlp or sklearn",
                reason="INVALID_PARAMETERS",
            )
        source = context.folder.parent / path
        return cls(version, path, source, Graph(source), label or version.label or "label")

    @property
    def features(self) -> tuple[Column, ...]:
        """The columns that it takes, in order; none where nobody said what its matrix has."""
        return tuple(Column(name, datatype) for _, datatype, names in self._columns() for name in names)

    @property
    def matrix(self) -> str:
        """The name of the only input, where its columns are known; '' where each is an input of its own."""
        columns = list(self._columns())
        return columns[0][0] if len(columns) == 1 and len(columns[0][2]) > 1 else ""

    def feeds(self, table: pa.Table) -> dict[str, Array]:
        """Read its inputs off rows; raises TrainingFailed(INVALID_DATA) where they lack a column that it takes."""
        feeds = {}
        for name, datatype, columns in self._columns():
            if datatype == "BYTES":
                require(table, (), columns)
                read = [np.asarray(texts_in(table, each).to_pylist(), dtype=object) for each in columns]
            else:
                require(table, columns, ())
                read = [numbers_of(table, each).astype(_DTYPES[datatype]) for each in columns]
            feeds[name] = np.stack(read, axis=1)
        return feeds

    def reads_rows(self) -> bool:
        """Whether what its inputs mean is known: columns of rows."""
        return len(list(self._columns())) == len(self.graph.inputs)

    def drawn(self, count: int, seed: int) -> dict[str, Array]:
        """Draw inputs that it takes, as varied as it takes them; raises TrainingFailed where it takes none."""
        failure: TrainingFailed | None = None
        for size in _OPEN_SIZES:
            generator = np.random.default_rng(seed)
            feeds = {name: _draw(generator, *spec, count, size) for name, spec in self.graph.inputs.items()}
            try:
                self.graph.run(feeds)
            except TrainingFailed as error:
                failure = failure or error
            else:
                return feeds
        raise TrainingFailed(
            f"the parent takes no inputs that can be drawn, so nothing could be compared: {failure}",
            reason="INVALID_PARAMETERS",
        )

    def copy_the_rest(self, context: Context) -> None:
        """Copy what the parent has beside its graph, whose weights go into the new one."""
        model = onnx.load(str(self.source), load_external_data=False)
        beside = {
            (Path(self.path).parent / entry.value).as_posix()
            for tensor in model.graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
        for path in files_of(context.folder):
            if path != self.path and path not in beside:
                target = context.artifact / path
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(context.folder.parent / path, target)

    def made(self, context: Context) -> Path:
        """Where the new graph goes."""
        target = context.artifact / self.path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _columns(self) -> Iterator[tuple[str, str, Sequence[str]]]:
        """Give each input of which is known what it takes: its name, its datatype, and the columns."""
        said = {each.name: each.columns for each in self.version.inputs}
        for name, (datatype, shape) in self.graph.inputs.items():
            if len(shape) != 2 or (datatype != "BYTES" and datatype not in _DTYPES):
                continue
            if said.get(name):
                yield name, datatype, said[name]
            elif shape[1] == 1:
                yield name, datatype, (name,)


def _draw(generator: np.random.Generator, datatype: str, shape: Sequence[Any], count: int, size: int) -> Array:
    sizes = [each if isinstance(each, int) and each > 0 else size for each in shape]
    if sizes and not isinstance(shape[0], int):
        sizes[0] = count
    if datatype == "BYTES":
        return np.asarray(generator.choice(_WORDS, sizes), dtype=object)
    dtype = np.dtype(_DTYPES.get(datatype, np.float32))
    if dtype.kind in "biu":
        return np.asarray(generator.integers(0, 2, sizes).astype(dtype))  # 0 and 1 stand in every table
    return np.asarray(generator.standard_normal(sizes).astype(dtype))


def _failed(sentence: str) -> TrainingFailed:
    return TrainingFailed(sentence[:_SENTENCE_CHARS], reason="INVALID_OUTCOME")
