"""The use case of Embed: texts in, a vector each out, with any model that embeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.inference.models import ANY, ModelFailed, NotAskedLikeThat, ResolvedVersion
from services.inference.tensors import Tensor
from services.inference.texts.attempts import Asked, TextRuns

FLOATS = ("FP16", "FP32", "FP64")


@dataclass(frozen=True, slots=True)
class Embeddings:
    """A vector for each text, in their order: [texts, dimensions]."""

    inference_id: str
    version: ResolvedVersion
    vectors: NDArray[np.float32]
    latency_ms: float


class TextEmbedder:
    """Embeds texts and records each call, the failed ones too."""

    def __init__(self, runs: TextRuns) -> None:
        self._runs = runs

    def embed(self, texts: Sequence[str], asked: Asked) -> Embeddings:
        """Embed texts.

        Raises:
            NotAskedLikeThat: NOT_AN_EMBEDDING_MODEL.
            DomainError: see `Engine.submit` and `Catalog.resolve`.
        """
        with self._runs.attempt(asked) as attempt:
            version, event = attempt.version, attempt.event
            name, output = embedding_of(version)
            event.row_count = len(texts)
            event.inputs = inputs = {name: bytes_tensor(texts)}
            vectors = as_vectors(attempt.answer(inputs, output).values)
            event.outputs = {output: vectors}
        return Embeddings(event.inference_id, version, np.asarray(vectors, np.float32), event.latency_ms)


def embedding_of(version: ResolvedVersion) -> tuple[str, str]:
    """Name the input and the output of a version that embeds; raises NotAskedLikeThat(NOT_AN_EMBEDDING_MODEL)."""
    names = find_embedding(version)
    if names is None:
        raise NotAskedLikeThat(
            f"{version.model} {version.version} does not embed: a model that does takes one BYTES tensor [-1] and "
            "gives one float tensor [-1, n]; ask it by Predict",
            reason="NOT_AN_EMBEDDING_MODEL",
        )
    return names


def find_embedding(version: ResolvedVersion) -> tuple[str, str] | None:
    """Name the input and the output of a version that takes texts and gives one vector each; None: it does not."""
    signature = version.signature
    if len(signature.inputs) != 1 or len(signature.outputs) != 1:
        return None
    text, vector = signature.inputs[0], signature.outputs[0]
    if text.datatype != "BYTES" or text.shape != (ANY,):
        return None
    if vector.datatype not in FLOATS or len(vector.shape) != 2 or vector.shape[0] != ANY:
        return None
    return text.name, vector.name


def as_vectors(values: Tensor) -> Tensor:
    """Pass what is [texts, dimensions]; raises ModelFailed for another shape than the signature promised."""
    if values.ndim != 2:
        raise ModelFailed(
            f"the model gave an embedding of shape {list(values.shape)}; [texts, dimensions] was promised"
        )
    return values


def bytes_tensor(texts: Sequence[str]) -> Tensor:
    """Make the BYTES tensor [texts]."""
    tensor = np.empty(len(texts), dtype=object)
    tensor[:] = [text.encode() for text in texts]
    return tensor
