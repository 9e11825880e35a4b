"""What the registry takes off the wire, and what it refuses there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.tensors.v1 import tensors_pb2
from services.common.errors import InvalidArgument
from services.registry import convert
from services.registry.models import CapturePolicy, NewFile, NewVersion, Source, Stage
from services.registry.signatures import reconcile
from services.registry.validation import report

BAD_NAMES = ["", "a/b", "../x", "a b", "-a", ".hidden", "a\x00b", "a\nb", "ü", "x" * 129, "x" * 10_000]


def metadata_with(fields: dict[str, Any]) -> dict[str, Any]:
    struct = Struct()
    struct.update(fields)
    return {"metadata": pb.Metadata(fields=struct)}


def header(**more: Any) -> NewVersion:
    values: dict[str, Any] = {"model": "iris", "version": "1", "framework": pb.FRAMEWORK_ONNX, **more}
    new, _ = convert.upload(iter([pb.RegisterVersionRequest(header=pb.VersionHeader(**values))]))
    return new


def refused(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        call()
    assert len(caught.value.message) < 1_000
    fields = [violation.field for violation in caught.value.violations]
    return caught.value.reason, fields[0] if fields else ""


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: repr(name[:8]))
def test_a_bad_name_is_refused_shortly_and_by_its_field(name: str) -> None:
    assert refused(lambda: header(model=name)) == ("INVALID_NAME", "model")
    assert refused(lambda: header(version=name)) == ("INVALID_NAME", "version")
    assert refused(lambda: convert.new_model(pb.CreateModelRequest(name=name))) == ("INVALID_NAME", "name")


def test_a_new_model_s_labels_and_tags_are_held_to_their_limits() -> None:
    for field, wrong in {"labels": {"labels": {"Team": "a"}}, "tags": {"tags": ["x"] * 65}}.items():
        request = pb.CreateModelRequest(name="iris", **wrong)  # type: ignore[arg-type]
        assert refused(partial(convert.new_model, request))[1] == field


def test_names_of_the_full_length_and_a_build_number_are_taken() -> None:
    new = header(model="x" * 128, version="v1.2.3-rc.1+build_7")
    assert (len(new.model), new.version) == (128, "v1.2.3-rc.1+build_7")
    assert refused(lambda: header(model="a+b")) == ("INVALID_NAME", "model")


def test_a_header_without_extras_gets_the_defaults() -> None:
    new = header()
    assert (new.stage, new.source, new.declared_signature) == (None, Source("upload"), None)
    assert (new.serving_settings, new.capture_policy) == (None, None)
    policy = header(capture_policy=pb.CapturePolicy()).capture_policy
    assert policy == CapturePolicy(disabled=False, share=None, max_bytes=None)
    assert header(stage=pb.STAGE_STAGING).stage is Stage.STAGING


@pytest.mark.parametrize(
    ("more", "reason", "field"),
    [
        ({"framework": pb.FRAMEWORK_UNSPECIFIED}, "UNSUPPORTED_FRAMEWORK", "framework"),
        ({"framework": 99}, "INVALID_ENUM", "framework"),
        ({"note": "x" * 4_097}, "INVALID_TEXT", "note"),
        ({"note": "nul\x00"}, "INVALID_TEXT", "note"),
        ({"approved_by": "two\nlines"}, "INVALID_TEXT", "approved_by"),
        ({"request_id": "x" * 129}, "INVALID_TEXT", "request_id"),
        ({"metadata": pb.Metadata(tags=["t"] * 65)}, "TOO_MANY", "metadata.tags"),
        ({"metadata": pb.Metadata(tags=["t" * 65])}, "INVALID_TEXT", "metadata.tags"),
        ({"metadata": pb.Metadata(output_dimensions=-1)}, "OUT_OF_BOUNDS", "metadata.output_dimensions"),
        (metadata_with({"x": float("nan")}), "INVALID_FIELDS", "metadata.fields"),
        (metadata_with({"x": "\x00"}), "INVALID_FIELDS", "metadata.fields"),
        (metadata_with({"x": "y" * 17_000}), "OUT_OF_BOUNDS", "metadata.fields"),
        ({"capture_policy": pb.CapturePolicy(share=1.1)}, "OUT_OF_BOUNDS", "capture_policy.share"),
        ({"capture_policy": pb.CapturePolicy(share=float("nan"))}, "OUT_OF_BOUNDS", "capture_policy.share"),
        ({"serving_settings": pb.ServingSettings(max_in_flight=-1)}, "OUT_OF_BOUNDS", "serving_settings.max_in_flight"),
        ({"source": pb.Source(reference="x" * 4_097)}, "INVALID_TEXT", "source.reference"),
        ({"note": "", "training_run_id": "x" * 257}, "INVALID_TEXT", "training_run_id"),
    ],
)
def test_a_bad_header_names_the_field(more: dict[str, Any], reason: str, field: str) -> None:
    assert refused(lambda: header(**more)) == (reason, field)


def bundle(task_type: str = "", **fields: Any) -> NewVersion:
    metadata = pb.Metadata(task_type=task_type)
    metadata.fields.update(fields)
    return header(framework=pb.FRAMEWORK_TRANSFORMERS, metadata=metadata)


@pytest.mark.parametrize(
    ("said", "reason", "meant"),
    [
        ({"task_type": "text-clasification"}, "UNKNOWN_TASK_TYPE", "'text-classification'"),
        ({"task_type": "Embeding"}, "UNKNOWN_TASK_TYPE", "'embedding'"),
        ({"task_type": "fill-mask"}, "UNKNOWN_TASK_TYPE", "it may be feature-extraction, text-classification"),
        ({"pooling": "clss"}, "INVALID_FIELDS", "'cls'"),
        ({"pooling": 3}, "INVALID_FIELDS", "it may be mean or cls"),
        ({"normalize": "no"}, "INVALID_FIELDS", "it may be true or false"),
    ],
)
def test_a_slip_in_what_serving_reads_of_a_bundle_is_refused_with_what_was_meant(
    said: dict[str, Any], reason: str, meant: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        bundle(**said)
    assert caught.value.reason == reason
    assert meant in caught.value.violations[0].description


def test_what_serving_knows_of_a_bundle_is_taken_and_of_others_anything() -> None:
    for task_type in ("", "Sentence_Similarity", "ner", "text-ranking"):
        assert bundle(task_type, pooling="cls", normalize=False).metadata.task_type == task_type
    assert header(metadata=pb.Metadata(task_type="price-guessing")).metadata.task_type == "price-guessing"


@pytest.mark.parametrize(
    ("spec", "reason", "field"),
    [
        ({"shape": [-2]}, "OUT_OF_BOUNDS", "declared_signature.inputs[0].shape"),
        ({"shape": [1] * 65}, "OUT_OF_BOUNDS", "declared_signature.inputs[0].shape"),
        ({"name": "a\x00"}, "INVALID_TEXT", "declared_signature.inputs[0].name"),
        ({"datatype": 77}, "INVALID_ENUM", "declared_signature.inputs[0].datatype"),
        ({"columns": ["x" * 300]}, "INVALID_TEXT", "declared_signature.inputs[0].columns"),
    ],
)
def test_a_bad_declared_tensor_names_the_field(spec: dict[str, Any], reason: str, field: str) -> None:
    signature = tensors_pb2.Signature(inputs=[tensors_pb2.TensorSpec(**spec)])
    assert refused(lambda: header(declared_signature=signature)) == (reason, field)


def test_two_declared_tensors_of_one_name_are_refused() -> None:
    signature = tensors_pb2.Signature(inputs=[tensors_pb2.TensorSpec(name="x")] * 2)
    assert refused(lambda: header(declared_signature=signature))[0] == "DUPLICATE_NAME"


@pytest.mark.parametrize("path", ["", "/abs", "a/../b", "./a", "a//b", "a\\b", "a/", "x" * 513, "a\x00"])
def test_a_path_that_may_leave_its_folder_is_refused(path: str) -> None:
    file = pb.RegisterVersionRequest(file=pb.FileHeader(path=path))
    _, parts = convert.upload(iter([pb.RegisterVersionRequest(header=good_header()), file]))
    reason, field = refused(lambda: next(parts))
    assert (reason, field) in {("INVALID_PATH", "path"), ("INVALID_TEXT", "path")}


def test_the_parts_of_an_upload_come_in_order() -> None:
    messages = [
        pb.RegisterVersionRequest(header=good_header()),
        pb.RegisterVersionRequest(file=pb.FileHeader(path="a/model.onnx")),
        pb.RegisterVersionRequest(chunk=b"bytes"),
    ]
    _, parts = convert.upload(iter(messages))
    assert list(parts) == [NewFile("a/model.onnx", None, None), b"bytes"]
    for wrong in ([], messages[1:], messages[2:]):
        assert refused(partial(convert.upload, iter(wrong)))[0] == "INCOMPLETE_UPLOAD"
    for wrong in ([messages[2]], [messages[0]], [pb.RegisterVersionRequest()]):
        _, parts = convert.upload(iter([messages[0], *wrong]))
        assert refused(partial(list, parts))[0] == "INCOMPLETE_UPLOAD"


def test_a_chunk_is_at_most_four_mebibytes() -> None:
    messages = [
        pb.RegisterVersionRequest(header=good_header()),
        pb.RegisterVersionRequest(file=pb.FileHeader(path="model.onnx")),
        pb.RegisterVersionRequest(chunk=bytes(4 * 1024 * 1024)),
    ]
    assert len(list(convert.upload(iter(messages))[1])) == 2
    messages.append(pb.RegisterVersionRequest(chunk=bytes(4 * 1024 * 1024 + 1)))
    assert refused(lambda: list(convert.upload(iter(messages))[1])) == ("OUT_OF_BOUNDS", "chunk")


def test_the_body_digest_covers_all_but_the_request_id() -> None:
    assert header(request_id="a").body_sha256 == header(request_id="b").body_sha256
    assert header(note="a").body_sha256 != header(note="b").body_sha256


FOUND = report.Signature((report.TensorSpec("x", "FP32", (-1, 2)),), (report.TensorSpec("y", "FP32", (-1,)),))


def declared(names: list[str], **output: Any) -> NewVersion:
    spec = tensors_pb2.TensorSpec
    x = spec(name="x", datatype=tensors_pb2.DATA_TYPE_FP32, shape=[-1, 2], columns=names)
    y = spec(**{"name": "y", "datatype": tensors_pb2.DATA_TYPE_FP32, "shape": [-1], **output})
    return header(declared_signature=tensors_pb2.Signature(inputs=[x], outputs=[y]))


def test_declared_columns_join_the_signature_of_the_file() -> None:
    merged = reconcile(declared(["width", "height"]).declared_signature, FOUND)
    assert not isinstance(merged, report.Failure)
    assert merged.inputs[0].columns == ("width", "height")
    assert merged.outputs[0].shape == (-1,)


@pytest.mark.parametrize(
    "spec",
    [
        {"name": ""},
        {"name": "x"},
        {"name": "", "datatype": tensors_pb2.DATA_TYPE_FP32, "shape": [-1, 2]},
    ],
)
def test_columns_alone_may_be_declared_and_the_only_input_needs_no_name(spec: dict[str, Any]) -> None:
    signature = tensors_pb2.Signature(inputs=[tensors_pb2.TensorSpec(**spec, columns=["width", "height"])])
    merged = reconcile(header(declared_signature=signature).declared_signature, FOUND)
    assert not isinstance(merged, report.Failure), merged
    assert merged.inputs[0].columns == ("width", "height")
    assert (merged.inputs[0].datatype, merged.inputs[0].shape, merged.outputs[0].columns) == ("FP32", (-1, 2), ())


def test_an_input_that_the_file_does_not_have_is_a_failure() -> None:
    signature = tensors_pb2.Signature(inputs=[tensors_pb2.TensorSpec(name="z", columns=["width", "height"])])
    failure = reconcile(header(declared_signature=signature).declared_signature, FOUND)
    assert isinstance(failure, report.Failure)
    assert "'z'" in failure.message


@pytest.mark.parametrize(
    "new", [declared(["one"]), declared([], columns=["y"]), declared([], datatype=tensors_pb2.DATA_TYPE_INT64)]
)
def test_a_declaration_that_contradicts_the_file_is_a_failure(new: NewVersion) -> None:
    failure = reconcile(new.declared_signature, FOUND)
    assert isinstance(failure, report.Failure)
    assert failure.reason == "SIGNATURE_MISMATCH"


def good_header() -> pb.VersionHeader:
    return pb.VersionHeader(model="iris", version="1", framework=pb.FRAMEWORK_ONNX)
