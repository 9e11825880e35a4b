"""Scripts over the socket: uploaded once, kept in versions, run by name; what is none is refused, and never run."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import penstock
from penstock.api.trainer.v1 import training_pb2
from tests.postgres import PostgresServer
from tests.training import TrainingPlace, training

pytestmark = pytest.mark.slow
FITS = dedent(
    """
    import numpy as np
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.tree import DecisionTreeClassifier

    def fitted(rows, depth):
        columns = ["height", "width"]
        matrix = np.stack([rows[name].to_numpy().astype("float32") for name in columns], axis=1)
        tree = DecisionTreeClassifier(max_depth=depth, random_state=0).fit(matrix, rows["label"].to_numpy())
        graph = convert_sklearn(
            tree, initial_types=[("features", FloatTensorType([None, 2]))], options={"zipmap": False}
        )
        return graph.SerializeToString(), {
            "label": "label", "features": dict.fromkeys(columns, "FP32"), "input_name": "features",
            "task_type": "classification", "classes": [str(each) for each in tree.classes_],
        }
    """
)
TRAINS = dedent(
    """
    from pathlib import Path
    from .fitting import fitted

    def train(context):
        print("told", sorted(context.parameters), "beside", sorted(p.name for p in Path(__file__).parent.iterdir()))
        graph, said = fitted(context.rows("train"), int(Path(__file__).with_name("depth.txt").read_text()))
        (context.artifact / "model.onnx").write_bytes(graph)
        return said
    """
)
PACKAGE = {"trees/__init__.py": TRAINS, "trees/fitting.py": FITS, "trees/depth.txt": "3"}
WAITS = "import time\ndef train(context):\n    context.report(1, {'loss': 1.0})\n    time.sleep(600)\n"
ROWS = "height,width,label\n" + "".join(f"{number},{number % 7},{'ab'[number % 2]}\n" for number in range(60))


def zipped(files: Mapping[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return out.getvalue()


@pytest.fixture(scope="module")
def place(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainingPlace]:
    """All services, a dataset, and scripts allowed."""
    folder = tmp_path_factory.mktemp("trainer")
    with training(postgres_server, folder, trainer_scripts_enabled=True) as place:
        (folder / "rows.csv").write_text(ROWS)
        place.client.datasets.upload("rows", folder / "rows.csv")
        yield place


def refusal(kind: type[penstock.PenstockError], call: Any, *args: Any, **more: Any) -> penstock.PenstockError:
    with pytest.raises(kind) as caught:
        call(*args, **more)
    return caught.value


def test_a_package_is_run_by_its_name_and_the_run_keeps_which_version_it_was(
    place: TrainingPlace, tmp_path: Path
) -> None:
    scripts = place.client.scripts
    folder = tmp_path / "script"
    for path, content in PACKAGE.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    first = scripts.upload("trees", folder, entry="trees/__init__.py", description="of depth 3").script
    assert (first.version, first.entry, first.packed, first.description) == (1, "trees/__init__.py", True, "of depth 3")
    assert {file.path: file.size_bytes for file in first.files} == {k: len(v.encode()) for k, v in PACKAGE.items()}
    assert scripts.upload("trees", folder, entry="trees/__init__.py").existed, "whenever it is packed"

    run = place.client.training.create_run("trees", recipe="script", parameters={"script": "trees"}, data_source="rows")
    (folder / "trees/depth.txt").write_text("4")
    second = scripts.upload("trees", folder, entry="trees/__init__.py").script
    assert second.version == 2
    run = place.client.training.wait_run(run.id)
    assert run.state == training_pb2.TRAINING_RUN_STATE_COMPLETED, run.message
    assert (run.script, run.parameters["script"]) == ("trees/1", "trees/1"), "what was the newest when it was made"
    log = b"".join(piece.chunk for piece in place.client.training.log(run.id)).decode()
    assert "told [] beside ['__init__.py', 'depth.txt', 'fitting.py']" in log
    fields = place.client.registry.get_version("trees", run.new_version).metadata.fields
    assert (fields["script"], fields["script_sha256"]) == ("trees/1", first.sha256)
    later = place.train("trees", recipe="script", parameters={"script": "trees/2"}, data_source="rows")
    assert (later.state, later.script) == (training_pb2.TRAINING_RUN_STATE_COMPLETED, "trees/2"), later.message
    assert later.code_sha256 != run.code_sha256
