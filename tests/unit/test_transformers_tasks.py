"""What a Transformers bundle is for and what it is asked, from what the registry says alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.api.tensors.v1 import tensors_pb2
from services.common.text_tasks import Task
from services.inference.convert import catalog_version
from services.inference.models import Metadata, Signature, TensorSpec
from services.inference.runtimes.transformers.tasks import find_task, served_signature

IDS = TensorSpec("input_ids", "INT64", (-1, -1))
HIDDEN = TensorSpec("last_hidden_state", "FP32", (-1, -1, 384))
POOLED = TensorSpec("pooler_output", "FP32", (-1, 384))
SENTENCE = TensorSpec("sentence_embedding", "FP32", (-1, 256))
TWO, ONE = TensorSpec("logits", "FP32", (-1, 2)), TensorSpec("logits", "FP32", (-1, 1))
OPEN = TensorSpec("logits", "FP32", (-1, -1))
TAGS = TensorSpec("logits", "FP16", (-1, -1, 9))


def graph(*outputs: TensorSpec) -> Signature:
    return Signature((IDS,), outputs)


@pytest.mark.parametrize(
    ("task_type", "outputs", "task"),
    [
        ("", (HIDDEN, POOLED), Task.EMBEDDING),
        ("", (TWO,), Task.TEXT_CLASSIFICATION),
        ("", (OPEN,), Task.TEXT_CLASSIFICATION),
        ("", (ONE,), Task.RERANKING),
        ("", (TAGS,), Task.TOKEN_CLASSIFICATION),
        ("", (TensorSpec("ids", "INT64", (-1, -1)),), None),
        ("feature-extraction", (TWO,), Task.EMBEDDING),
        ("Sentence_Similarity", (HIDDEN,), Task.EMBEDDING),
        (" text-classification ", (ONE,), Task.TEXT_CLASSIFICATION),
        ("zero-shot-classification", (TWO,), Task.ZERO_SHOT),
        ("token-classification", (TAGS,), Task.TOKEN_CLASSIFICATION),
        ("ner", (TAGS,), Task.TOKEN_CLASSIFICATION),
        ("text-ranking", (TWO,), Task.RERANKING),
        ("rerank", (ONE,), Task.RERANKING),
        ("fill-mask", (TAGS,), None),
    ],
)
def test_the_task_is_said_or_seen(task_type: str, outputs: tuple[TensorSpec, ...], task: Task | None) -> None:
    assert find_task(Metadata(task_type), graph(*outputs)) is task


@pytest.mark.parametrize(
    ("outputs", "width"),
    [((HIDDEN, SENTENCE), 256), ((POOLED, HIDDEN), 384), ((POOLED,), 384), ((TensorSpec("x", "FP64", (-1, 7)),), 7)],
)
def test_an_embedding_is_as_long_as_the_output_that_it_comes_from(outputs: tuple[TensorSpec, ...], width: int) -> None:
    served = served_signature(Metadata(), graph(*outputs))
    assert served.inputs == (TensorSpec("text", "BYTES", (-1,)),)
    assert served.outputs == (TensorSpec("embedding", "FP32", (-1, width)),)


def test_a_bundle_is_asked_with_texts_from_the_moment_that_the_registry_tells_of_it() -> None:
    version = pb.ModelVersion(
        model="m", version="1", framework=pb.FRAMEWORK_TRANSFORMERS, state=pb.VERSION_STATE_READY,
        metadata=pb.Metadata(task_type="zero-shot-classification"),
        signature=tensors_pb2.Signature(
            inputs=[tensors_pb2.TensorSpec(name="input_ids", datatype=tensors_pb2.DATA_TYPE_INT64, shape=[-1, -1])],
            outputs=[tensors_pb2.TensorSpec(name="logits", datatype=tensors_pb2.DATA_TYPE_FP32, shape=[-1, 3])],
        ),
    )  # fmt: skip
    resolved = catalog_version(version).resolved
    assert resolved is not None
    assert [spec.name for spec in resolved.signature.inputs] == ["text", "labels"]
    assert [spec.name for spec in resolved.signature.outputs] == ["label", "score", "ranking"]
    version.framework = pb.FRAMEWORK_ONNX
    plain = catalog_version(version).resolved
    assert plain is not None
    assert [spec.name for spec in plain.signature.inputs] == ["input_ids"]


@pytest.mark.slow
def test_nobody_imports_the_tokenizers_before_the_first_such_model() -> None:
    loaded = (
        "import sys, services.inference.__main__; "
        "print([name for name in ('tokenizers', 'transformers', 'onnxruntime') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, timeout=240)
    assert result.stdout.strip() == "[]"
