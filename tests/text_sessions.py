"""Sessions of Transformers bundles: what their tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from services.inference.runtimes.onnx_runtime import OnnxRuntime
from services.inference.runtimes.transformers.session import TransformersRuntime, TransformersSession
from services.inference.tensors import Tensor
from tests.testdata import text_models
from tests.testdata.text_models import as_bytes, labelled

ENTAILMENT = labelled("contradiction", "neutral", "ENTAILMENT")


def load(
    folder: Path, files: dict[str, bytes], task_type: str = "", *, max_batch_tokens: int = 512, **more: Any
) -> TransformersSession:
    runtime = TransformersRuntime(OnnxRuntime(intra_op_threads=1), max_batch_tokens=max_batch_tokens)
    return runtime.load(text_models.artifact(folder, files, task_type, **more))


def ask(session: TransformersSession, *texts: str | bytes, **others: list[str]) -> dict[str, Tensor]:
    return session.run({"text": as_bytes(texts), **{name: as_bytes(values) for name, values in others.items()}})


def softmax(values: Any) -> Any:
    shares = np.exp(values - values.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)
