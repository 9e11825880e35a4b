"""The judgement of SavedModels before TensorFlow sees them: by their graphs alone, in this process."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from tensorflow.core.framework import op_def_pb2, variable_pb2
from tensorflow.python.client import pywrap_tf_session

from services.registry.validation.report import FailureReason, Refusal
from services.registry.validation.tensorflow_computing import COMPUTES
from services.registry.validation.tensorflow_graph import SavedModelFacts, read_saved_model
from services.registry.validation.tensorflow_operators import READS_FILES, why_refused
from tests.tensorflow import saved_models

pytestmark = pytest.mark.slow

# What the names of an operator's inputs and attributes say of what it reaches.
REACHES = re.compile(
    r"file|(?<!top_)path|dir(?!ection)|_url|address|^token$|memory_region|descriptor|^debug_ops|^(call_)?target_name"
    r"|graph|mlir|module|program|dataset|iterator|remote|(?<!allowed_)device(?!_names$)|executable|library|backend|platform"
)


def read(folder: Path, *, files_allowed: bool = False) -> SavedModelFacts:
    return read_saved_model((folder / "saved_model.pb").read_bytes(), files_allowed=files_allowed)


def refused(folder: Path) -> tuple[FailureReason, str]:
    with pytest.raises(Refusal) as caught:
        read(folder)
    return caught.value.reason, caught.value.message


def operators() -> list[Any]:
    operators = op_def_pb2.OpList()
    operators.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    return list(operators.op)


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("linear")
    saved_models.linear(folder)
    return folder


@pytest.fixture
def edited(linear: Path, tmp_path: Path) -> Callable[[Callable[[Any], None]], Path]:
    def edit(change: Callable[[Any], None]) -> Path:
        (tmp_path / "saved_model.pb").write_bytes((linear / "saved_model.pb").read_bytes())
        saved_models.edit(tmp_path, change)
        return tmp_path

    return edit


def function(graph: Any, part: str) -> Any:
    return next(each for each in graph.graph_def.library.function if part in each.signature.name)


def test_a_model_with_variables_a_table_and_its_saver_is_let_in(linear: Path) -> None:
    facts = read(linear)
    assert (facts.signature_name, facts.tags) == ("serving_default", ("serve",))
    assert facts.producer == f"tensorflow {tf.__version__}"
    assert sorted(facts.signature.outputs) == ["number", "y"]


@pytest.mark.parametrize(
    ("body", "operator"),
    [
        (lambda x: {"y": x, "text": tf.io.read_file("/etc/passwd")}, "ReadFile"),
        (lambda x: {"y": x, "names": tf.io.matching_files("/home/*")}, "MatchingFiles"),
        (lambda x: {"y": tf.py_function(lambda y: y, [x], tf.float32)}, "EagerPyFunc"),
        (lambda x: {"y": tf.numpy_function(lambda y: y, [x], tf.float32)}, "PyFunc"),
        (
            lambda x: {
                "y": x,
                "rows": tf.raw_ops.RestoreV2(
                    prefix="/tmp/c", tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32]
                )[0],
            },
            "RestoreV2",
        ),
        (
            lambda x: {"y": tf.cond(tf.reduce_sum(x) > 0, lambda: tf.strings.length(tf.io.read_file("/a")), lambda: 0)},
            "ReadFile",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_operator_that_reads_files_or_runs_python_is_found_wherever_it_is(
    tmp_path: Path, body: Callable[[Any], Any], operator: str
) -> None:
    saved_models.calling(tmp_path, body)
    reason, message = refused(tmp_path)
    assert reason is FailureReason.FORBIDDEN_OPERATOR
    assert repr(operator) in message


def test_what_writes_is_found_where_nothing_waits_for_its_answer(tmp_path: Path) -> None:
    def body(x: Any) -> Any:
        tf.io.write_file("/tmp/written", "text")
        return {"y": x}

    saved_models.calling(tmp_path, body)
    assert "'WriteFile'" in refused(tmp_path)[1]


def test_printing_is_let_be_but_not_into_a_file(tmp_path: Path) -> None:
    def body(stream: Any) -> Callable[[Any], Any]:
        def printing(x: Any) -> Any:
            tf.print(x, output_stream=stream)
            return {"y": x}

        return printing

    saved_models.calling(tmp_path / "kind", body(sys.stderr))
    read(tmp_path / "kind")
    saved_models.calling(tmp_path / "hostile", body("file:///tmp/written"))
    assert "writes to a file" in refused(tmp_path / "hostile")[1]


def test_a_vocabulary_in_a_file_is_refused_with_advice_and_policy_lets_it_in(tmp_path: Path) -> None:
    saved_models.with_vocabulary_file(tmp_path / "model", tmp_path / "words.txt")
    reason, message = refused(tmp_path / "model")
    assert reason is FailureReason.FORBIDDEN_OPERATOR
    assert "give a vocabulary as a list" in message
    assert read(tmp_path / "model", files_allowed=True).signature_name == "serving_default"


def test_signatures_are_chosen_by_name(tmp_path: Path, edited: Callable[..., Path]) -> None:
    saved_models.with_two_signatures(tmp_path / "two")
    reason, message = refused(tmp_path / "two")
    assert reason is FailureReason.AMBIGUOUS_SIGNATURE
    assert "it has 'one', 'two'" in message
    content = (tmp_path / "two" / "saved_model.pb").read_bytes()
    assert read_saved_model(content, files_allowed=False, signature_name="two").signature_name == "two"
    with pytest.raises(Refusal, match=r"no signature 'three'.* it has 'one', 'two'"):
        read_saved_model(content, files_allowed=False, signature_name="three")

    def rename(graph: Any) -> None:
        graph.signature_def["only"].CopyFrom(graph.signature_def.pop("serving_default"))

    assert read(edited(rename)).signature_name == "only"


def test_an_operator_that_nobody_knows_is_refused(edited: Callable[..., Path]) -> None:
    folder = edited(lambda graph: graph.graph_def.node.add(name="more", op="AcmeFrobnicate"))
    assert refused(folder)[0] is FailureReason.CUSTOM_OPERATOR


def serve_the_restore(graph: Any) -> None:
    """The signature's wrapper also calls the saver's function: now it restores whenever it is served."""
    wrapper, restore = function(graph, "signature_wrapper"), function(graph, "traced_restore")
    call = wrapper.node_def.add(name="more", op="PartitionedCall")
    call.attr["f"].func.name = restore.signature.name


def export_the_save(graph: Any) -> None:
    graph.object_graph_def.concrete_functions[function(graph, "traced_save").signature.name].SetInParent()


def restore_from_elsewhere(graph: Any) -> None:
    """The saver's function chooses its own file."""
    restore = function(graph, "traced_restore")
    restore.node_def.add(name="elsewhere", op="Const")
    next(node for node in restore.node_def if node.op == "RestoreV2").input[0] = "elsewhere:output:0"


def call_with_another_file(graph: Any) -> None:
    """The saver's function is told another file than the loader's."""
    graph.graph_def.node.add(name="elsewhere", op="Const")
    name = graph.saver_def.restore_op_name
    next(node for node in graph.graph_def.node if node.name == name).input[0] = "elsewhere"


def restore_by_another_argument(graph: Any) -> None:
    """The saver's function is told the loader's file, and reads another that it is told as well."""
    restore = function(graph, "traced_restore")
    restore.signature.input_arg.add(name="elsewhere")
    next(node for node in restore.node_def if node.op == "RestoreV2").input[0] = "elsewhere"


def restore_in_a_loop(graph: Any) -> None:
    """A loop is given the loader's file, and its body may make another of it."""
    name = graph.saver_def.restore_op_name
    next(node for node in graph.graph_def.node if node.name == name).op = "While"


def save_when_loaded(graph: Any) -> None:
    """Restoring, which the loader does, saves."""
    restore, save = (function(graph, f"traced_{each}") for each in ("restore", "save"))
    written = next(node for node in save.node_def if node.op == "SaveV2")
    more = restore.node_def.add()
    more.CopyFrom(written)
    more.input[0] = "file_prefix"


def save_elsewhere(graph: Any) -> None:
    save = function(graph, "traced_save")
    save.node_def.add(name="elsewhere", op="Const")
    next(node for node in save.node_def if node.op == "MergeV2Checkpoints").input[1] = "elsewhere:output:0"


def restore_in_the_main_graph(graph: Any) -> None:
    graph.graph_def.node.add(name="elsewhere", op="Const")
    graph.graph_def.node.add(name="more", op="RestoreV2", input=["elsewhere"])


@pytest.mark.parametrize(
    "change",
    [
        *(serve_the_restore, export_the_save, restore_from_elsewhere, call_with_another_file),
        *(restore_by_another_argument, restore_in_a_loop, save_when_loaded, save_elsewhere, restore_in_the_main_graph),
    ],
)
def test_the_saver_is_let_be_in_its_place_alone(edited: Callable[..., Path], change: Callable[[Any], None]) -> None:
    reason, message = refused(edited(change))
    assert reason is FailureReason.FORBIDDEN_OPERATOR
    assert "RestoreV2" in message or "SaveV2" in message or "MergeV2Checkpoints" in message


def add_a_save(graph: Any, file: str, then: str) -> None:
    """Another node writes, to a file by this name, before the node `then` is run."""
    graph.graph_def.node.add(name="elsewhere", op="Const")
    graph.graph_def.node.add(name="more", op="SaveV2", input=[file])
    next(node for node in graph.graph_def.node if node.name == then).input.append("^more")


def begin_with_a_save(graph: Any) -> None:
    """A variable's first value, which a loader may ask for, is made after the save."""
    begins = graph.graph_def.node.add(name="begins", op="NoOp", input=["^more"])
    add_a_save(graph, "save/Const", "save/Identity")
    next(node for node in graph.graph_def.node if node.name == "save/Identity").input.append("^begins")
    variable = variable_pb2.VariableDef(variable_name="v", initializer_name=begins.name)
    graph.collection_def["variables"].bytes_list.value.append(variable.SerializeToString())


def feed_one_output_of_two(graph: Any) -> None:
    """The loader's name takes the place of one output, and the saver reads by another."""
    next(node for node in graph.graph_def.node if node.name == "save/Const").op = "IdentityN"


@pytest.mark.parametrize(
    "change",
    [
        lambda graph: add_a_save(graph, "elsewhere", graph.saver_def.restore_op_name),
        lambda graph: add_a_save(graph, "save/Const", graph.saver_def.restore_op_name),
        lambda graph: add_a_save(graph, "elsewhere", "save/Identity"),
        begin_with_a_save,
        feed_one_output_of_two,
    ],
)
def test_a_saver_of_nodes_is_let_be_in_its_place_alone(tmp_path: Path, change: Callable[[Any], None]) -> None:
    saved_models.of_a_session(tmp_path / "model")
    assert read(tmp_path / "model").signature_name == "serving_default"
    saved_models.edit(tmp_path / "model", change)
    reason, message = refused(tmp_path / "model")
    assert reason is FailureReason.FORBIDDEN_OPERATOR
    assert "SaveV2" in message


def test_a_graph_in_a_string_is_not_run(tmp_path: Path) -> None:
    saved_models.with_a_graph_inside(tmp_path / "model", tmp_path / "canary")
    reason, message = refused(tmp_path / "model")
    assert reason is FailureReason.FORBIDDEN_OPERATOR
    assert "'DatasetFromGraph'" in message or "'DatasetCardinality'" in message
    assert not (tmp_path / "canary").exists()
    # Whoever served it would be written to: what is refused is no empty threat.
    tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"](x=tf.zeros([1, 4]))
    assert (tmp_path / "canary").read_text() == "written"


def call_an_operator(graph: Any) -> None:
    """A branch is called by the name of an operator, which it would become."""
    branch = function(graph, "signature_wrapper").node_def.add(name="more", op="StatelessIf")
    branch.attr["then_branch"].func.name = branch.attr["else_branch"].func.name = "WriteFile"


def test_what_is_called_is_a_function_of_the_model(edited: Callable[..., Path]) -> None:
    reason, message = refused(edited(call_an_operator))
    assert reason is FailureReason.FORBIDDEN_OPERATOR
    assert "calls 'WriteFile'" in message


@pytest.mark.parametrize("name", ["twice", "WriteFile"])
def test_functions_that_could_be_taken_for_others_are_refused(edited: Callable[..., Path], name: str) -> None:
    def change(graph: Any) -> None:
        for _ in range(1 if name == "WriteFile" else 2):
            graph.graph_def.library.function.add().signature.name = name

    assert refused(edited(change))[0] is FailureReason.INVALID_MODEL


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\\b", ""])
def test_an_asset_outside_of_the_model_is_refused(edited: Callable[..., Path], name: str) -> None:
    folder = edited(lambda graph: graph.asset_file_def.add(filename=name))
    assert refused(folder)[0] is FailureReason.INVALID_MODEL


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"PK\x03\x04", b"\x08\x01"])
def test_other_bytes_are_no_saved_model(content: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        read_saved_model(content, files_allowed=False)
    assert caught.value.reason is FailureReason.NOT_TENSORFLOW


def test_every_operator_of_this_tensorflow_that_reaches_out_is_refused() -> None:
    """A later release brings more of them, and this says which are to be looked at."""
    reaching = [
        operator.name
        for operator in operators()
        if any(REACHES.search(part.name) for part in (*operator.input_arg, *operator.attr))
        and not why_refused(operator.name, files_allowed=False)
    ]
    assert reaching == []


def test_the_operators_that_are_named_are_there() -> None:
    known = {operator.name for operator in operators()}
    assert known >= READS_FILES | COMPUTES


@pytest.mark.parametrize(
    "name",
    [
        *("PyFunc", "PyFuncStateless", "WriteFile", "ReadFile", "SaveV2", "RestoreV2", "LoadDataset", "TensorDataset"),
        *("DatasetFromGraph", "MlirPassthroughOp", "RewriteDataset", "BatchFunction", "RemoteCall", "XlaLaunchV2"),
        *("XlaCustomCall", "TPUPartitionedCall", "CopyHost", "EncodeProto", "DecodeProtoV2", "ImmutableConst"),
        *("SymbolicGradient", "ParseTensor", "Abort", "AnOperatorOfTheNextRelease"),
    ],
)
def test_what_does_more_than_compute_is_refused_by_name(name: str) -> None:
    assert why_refused(name, files_allowed=False)


def test_datasets_are_refused_whatever_policy_says_of_files() -> None:
    datasets = [operator.name for operator in operators() if "Dataset" in operator.name]
    assert len(datasets) > 100
    assert [name for name in datasets if not why_refused(name, files_allowed=True)] == []
