"""Scripts over the socket: uploaded once, kept in versions, run by name; what is none is refused, and never run."""

from __future__ import annotations

import io
import json
import os
import threading
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import dedent
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.json_format import MessageToDict

import penstock
from penstock.api.trainer.v1 import scripts_pb2 as pb
from penstock.api.trainer.v1 import training_pb2, worker_pb2
from penstock.api.trainer.v1.scripts_pb2_grpc import ScriptServiceStub
from services.trainer.executing.local import LocalExecutor
from services.trainer.scripts import inspection
from services.trainer.scripts.uploads import MAX_READ
from services.trainer.worker.attempt import Attempts
from tests.commands import run_penstock
from tests.kit import write_keys
from tests.postgres import PostgresServer
from tests.serving import wait_until
from tests.training import TrainingPlace, training

pytestmark = pytest.mark.slow
HANGS = "tests.testdata.children.hangs"
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


def test_a_package_is_run_here_and_elsewhere_and_the_run_keeps_which_version_it_was(
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
    later = place.client.training.create_run(
        "trees", recipe="script", parameters={"script": "trees/2"}, data_source="rows", executor="remote"
    )
    worker = place.client.training_worker
    claims: list[worker_pb2.ClaimTrainingTaskResponse] = []
    wait_until(lambda: claims.append(worker.claim("elsewhere", run_id=later.id)) or bool(claims[-1].run_token))  # type: ignore[func-returns-value]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o711)
    attempts = Attempts(worker, lambda _: LocalExecutor(), lambda _: None, elsewhere)
    assert attempts(claims[-1].run_token)
    later = place.client.training.wait_run(later.id)
    assert (later.state, later.script) == (training_pb2.TRAINING_RUN_STATE_COMPLETED, "trees/2"), later.message
    assert later.code_sha256 != run.code_sha256


def test_versions_are_numbered_once_and_can_be_looked_up_and_taken_back(place: TrainingPlace, tmp_path: Path) -> None:
    scripts = place.client.scripts
    codes = [f"def train(context):\n    return {number}\n".encode() for number in range(3)]
    first = scripts.upload("numbered", codes[0], request_id="first").script
    assert (first.version, first.entry, first.packed, first.created_by) == (1, "train.py", False, "anonymous")
    assert [scripts.upload("numbered", code).script.version for code in (codes[1], codes[0], codes[0])] == [2, 3, 3]
    assert scripts.upload("numbered", codes[0], request_id="first").script == first, "the same request again"
    refused = refusal(penstock.FailedPrecondition, scripts.upload, "numbered", codes[1], request_id="first")
    assert refused.reason == "REQUEST_ID_REUSED"
    kept = scripts.upload("again", codes[0]).script
    assert scripts.upload("again", codes[0], request_id="was there").existed
    assert scripts.upload("again", codes[1]).script.version == 2
    again = scripts.upload("again", codes[0], request_id="was there")
    assert (again.script, again.existed) == (kept, True), "the first result, whatever came since"
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(scripts.upload, f"one-{number}", codes[0], request_id="at once") for number in range(4)]
        failed = [call.exception() for call in calls]
    assert sorted(getattr(error, "reason", "") for error in failed) == ["", *["REQUEST_ID_REUSED"] * 3]
    assert scripts.get("numbered") == scripts.get("numbered", 3)
    assert [each.version for each in scripts.list("numbered", page_size=1)] == [3, 2, 1]
    assert [(each.name, each.version) for each in scripts.list(page_size=1) if each.name == "numbered"] == [
        ("numbered", 3)
    ]
    path = scripts.download("numbered", tmp_path, 2)
    assert (path.name, path.read_bytes()) == ("numbered-2.py", codes[1])
    scripts.delete("numbered", 3)
    assert refusal(penstock.NotFound, scripts.get, "numbered", 3).reason == "SCRIPT_VERSION_NOT_FOUND"
    third = scripts.upload("numbered", codes[2]).script
    assert third.version == 4, "a number is never given again"
    assert refusal(penstock.NotFound, scripts.delete, "nothing", 1).reason == "SCRIPT_NOT_FOUND"
    assert refusal(penstock.InvalidArgument, scripts.delete, "numbered", 0).reason == "VERSION_REQUIRED"
    scripts.delete("numbered", 4)
    assert place.rows("SELECT count(*) FROM trainer.named_blobs WHERE sha256 = %s", third.sha256) == [(0,)]
    with ThreadPoolExecutor(4) as pool:
        sent = pool.map(lambda number: scripts.upload("at-once", codes[0] + b"#" * number).script, range(1, 5))
        assert sorted(script.version for script in sent) == [1, 2, 3, 4]


def linked(files: Mapping[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path, target in files.items():
            info = zipfile.ZipInfo(path)
            info.external_attr = 0o120777 << 16
            archive.writestr(info, target)
    return out.getvalue()


GOOD = "def train(context): pass\n"
BAD: dict[str, tuple[bytes, dict[str, str], str]] = {
    "no Python": (b"def train(context:\n    pass\n", {}, "SYNTAX_ERROR"),
    "what brings a compiler down": (b"-" * 500_000 + b"1", {}, "SYNTAX_ERROR"),
    "an encoding that is none": (b"# coding: foo\n" + GOOD.encode(), {}, "SYNTAX_ERROR"),
    "a module of the trainer's": (zipped({"train.py": GOOD, "random.py": ""}), {}, "RESERVED_NAME"),
    "compiled code": (zipped({"train.py": GOOD, "train.so": ""}), {}, "COMPILED_CODE"),
    "no train": (b"def fit(context): pass\n", {}, "NO_TRAIN"),
    "an entry that leads out": (GOOD.encode(), {"entry": "../train.py"}, "INVALID_ENTRY"),
    "a link": (linked({"train.py": "/etc/passwd"}), {}, "ARCHIVE_UNSAFE"),
    "a bomb": (zipped({"train.py": GOOD, "zeros": bytes(65 * 1024 * 1024)}), {}, "ARCHIVE_TOO_LARGE"),
    "one large file of Python": (b"x = 1\n" * 200_000, {}, "TOO_LARGE"),
    "more than may be sent": (bytes(16 * 1024 * 1024 + 1), {}, "TOO_LARGE"),
    "no name": (GOOD.encode(), {"name": ""}, "INVALID_NAME"),
    "a description without end": (GOOD.encode(), {"description": "d" * 1_001}, "INVALID_TEXT"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_script_is_refused_and_leaves_nothing(place: TrainingPlace, case: str) -> None:
    source, more, reason = BAD[case]
    refused = refusal(penstock.PenstockError, place.client.scripts.upload, **{"name": "bad", "source": source, **more})
    assert refused.reason == reason, refused.message
    assert place.rows("SELECT count(*) FROM trainer.script_versions WHERE name = 'bad'") == [(0,)]
    assert list(Path(str(place.settings.trainer_work_folder)).glob("*/penstock-script-*")) == []


def test_an_upload_that_breaks_off_leaves_nothing(place: TrainingPlace) -> None:
    gone_on, never = threading.Event(), threading.Event()

    def pieces() -> Iterator[pb.UploadScriptRequest]:
        yield pb.UploadScriptRequest(header=pb.UploadScriptHeader(name="broken"))
        yield pb.UploadScriptRequest(chunk=GOOD.encode())
        gone_on.set()
        never.wait(60)

    with grpc.insecure_channel(place.trainer.address) as channel:
        call = ScriptServiceStub(channel).UploadScript.future(pieces())
        assert gone_on.wait(60)
        folder = Path(str(place.settings.trainer_work_folder))
        wait_until(lambda: bool(list(folder.glob("*/penstock-script-*"))))
        call.cancel()
        never.set()
        wait_until(lambda: not list(folder.glob("*/penstock-script-*")))
    assert place.rows("SELECT count(*) FROM trainer.script_versions WHERE name = 'broken'") == [(0,)]


def test_so_many_scripts_are_read_at_once_and_none_once_its_caller_has_left(
    place: TrainingPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sent(name: str) -> Iterator[pb.UploadScriptRequest]:
        yield pb.UploadScriptRequest(header=pb.UploadScriptHeader(name=name))
        yield pb.UploadScriptRequest(chunk=GOOD.encode())

    folder = Path(str(place.settings.trainer_work_folder))
    with grpc.insecure_channel(place.trainer.address) as channel, monkeypatch.context() as patch:
        patch.setattr(inspection, "_CHILD", HANGS)
        upload = ScriptServiceStub(channel).UploadScript
        calls = [upload.future(sent("left")) for _ in range(MAX_READ)]
        wait_until(lambda: len(readers()) == MAX_READ)
        with pytest.raises(grpc.RpcError) as refused:
            upload(sent("left"))
        assert refused.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "try again when one is done" in str(refused.value)
        for call in calls:
            call.cancel()
        wait_until(lambda: not readers())
        wait_until(lambda: not list(folder.glob("*/penstock-script-*")))
    assert list(place.client.scripts.list("left")) == []
    assert place.client.scripts.upload("left", GOOD.encode()).script.version == 1, "the places are free again"


def readers() -> list[psutil.Process]:
    """The processes that read scripts for this one."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if HANGS in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def test_what_a_run_trains_with_is_deleted_when_it_has_ended_and_then_no_run_is_made_of_it(
    place: TrainingPlace,
) -> None:
    scripts, runs = place.client.scripts, place.client.training
    scripts.upload("held", WAITS.encode())
    run = runs.create_run("held", recipe="script", parameters={"script": "held"})
    assert refusal(penstock.FailedPrecondition, scripts.delete, "held", 1).reason == "SCRIPT_IN_USE"
    runs.cancel_run(run.id)
    runs.wait_run(run.id)
    scripts.delete("held", 1)
    named = {"model": "held", "recipe": "script"}
    gone = refusal(penstock.NotFound, runs.create_run, **named, parameters={"script": "held"})
    assert gone.reason == "SCRIPT_NOT_FOUND"
    scripts.upload("held", GOOD.encode())
    gone = refusal(penstock.NotFound, runs.create_run, **named, parameters={"script": "held/1"})
    assert (gone.reason, "the newest is 2" in gone.message) == ("SCRIPT_VERSION_NOT_FOUND", True)
    for wrong in ({"script": "held", "code": GOOD}, {"script": "held/latest"}, {"script": 5}):
        assert refusal(penstock.InvalidArgument, runs.create_run, **named, parameters=wrong).reason in (
            "INVALID_PARAMETERS", "INVALID_NAME",
        )  # fmt: skip


def test_a_search_tries_one_version_of_a_script(place: TrainingPlace) -> None:
    tried = "def train(context):\n    raise ValueError(f'depth {context.parameters}')\n"
    place.client.scripts.upload("tried", tried.encode())
    space: dict[str, Any] = {"depth": {"type": "int", "low": 1, "high": 9}}
    told: dict[str, Any] = {"recipe": "script", "parameters": {"script": "tried"}, "metric": "accuracy", "trials": 2}
    run = place.train("tried", recipe="search", parameters={**told, "space": space}, data_source="rows")
    assert (run.script, MessageToDict(run.parameters)["parameters"]) == ("tried/1", {"script": "tried/1"})
    assert "the recipe raised ValueError: depth {'depth': " in run.message
    space["script"] = {"type": "categorical", "choices": ["tried/1", "numbered/1"]}
    told["parameters"] = {}
    call = place.client.training.create_run
    refused = refusal(
        penstock.InvalidArgument, call, "tried", recipe="search", parameters={**told, "space": space},
        data_source="rows",
    )  # fmt: skip
    assert refused.violations[0].field == "parameters.space.script"


def test_scripts_are_taken_where_policy_allows_them_from_operators(place: TrainingPlace, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    write_keys(keys, ada="admin", oli="operator", vic="viewer")
    with place.replica(keys_file=keys, trainer_worker_enabled=False, trainer_scripts_enabled=False) as trainer:
        clients = {name: penstock.Client(trainer=trainer.address, token=name) for name in ("ada", "oli", "vic")}
        refused = refusal(penstock.FailedPrecondition, clients["oli"].scripts.upload, "policy", GOOD.encode())
        assert refused.reason == "RECIPE_NOT_ALLOWED"
        assert "PENSTOCK_TRAINER_SCRIPTS_ENABLED" in refused.message
        refusal(penstock.PermissionDenied, clients["vic"].scripts.upload, "policy", GOOD.encode())
        place.client.scripts.upload("policy", GOOD.encode())
        assert clients["vic"].scripts.get("policy").version == 1
        refusal(penstock.PermissionDenied, clients["oli"].scripts.delete, "policy", 1)
        clients["ada"].scripts.delete("policy", 1)
        for client in clients.values():
            client.close()


def test_the_command_line_uploads_lists_shows_and_deletes(place: TrainingPlace, tmp_path: Path) -> None:
    environment = {**os.environ, "PENSTOCK_TRAINER_ADDRESS": place.trainer.address, "NO_COLOR": "1"}

    def script(*arguments: str, exit_code: int = 0) -> str:
        done = run_penstock(["train", "script", *arguments], folder=tmp_path, environment=environment, timeout_s=60)
        assert done.returncode == exit_code, done.stdout + done.stderr
        return done.stdout + done.stderr

    (tmp_path / "typed").mkdir()
    (tmp_path / "typed" / "fit.py").write_text(GOOD)
    said = script("upload", "typed", "typed", "--entry", "fit.py", "--description", "by hand")
    assert "typed/1" in said
    assert "--param script=typed" in said, "what to do next"
    assert "newest version already" in script("upload", "typed", "typed", "--entry", "fit.py")
    assert "fit.py" in script("show", "typed")
    (listed,) = json.loads(script("list", "typed", "--json"))
    assert (listed["version"], listed["description"], listed["files"]) == (1, "by hand", []), (
        "the files are shown alone"
    )
    assert "verified" in script("download", "typed/1")
    with zipfile.ZipFile(tmp_path / "typed-1.zip") as archive:
        assert archive.read("fit.py") == GOOD.encode()
    (tmp_path / "typed" / "fit.py").write_text("x = (")
    assert "'fit.py' is no Python: line 1" in script("upload", "typed", "typed", "--entry", "fit.py", exit_code=1)
    assert "name the version" in script("delete", "typed", "--yes", exit_code=2)
    assert "deleted typed/1" in script("delete", "typed/1", "--yes")
