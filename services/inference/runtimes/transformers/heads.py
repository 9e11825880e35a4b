"""The tasks whose answer is numbers: embeddings, classes of whole texts, and how well a text answers a query."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from services.common.text_tasks import CLS, Task
from services.inference.models import Signature
from services.inference.runtimes.transformers.batches import Batch
from services.inference.runtimes.transformers.bundle import Bundle, refused
from services.inference.runtimes.transformers.entities import EntityHead
from services.inference.runtimes.transformers.head import (
    Asked,
    Floats,
    Head,
    check_rows,
    objects,
    sigmoid,
    softmax,
)
from services.inference.runtimes.transformers.tasks import QUERY, TEXT, find_embedding, find_logits
from services.inference.runtimes.transformers.tokenizing import texts_of
from services.inference.runtimes.transformers.zero_shot import ZeroShotHead
from services.inference.tensors import Tensor

SMALLEST_NORM = 1e-12
"""A vector of zeros stays one."""


class EmbeddingHead:
    """Pools the tokens' vectors, or takes the text's where the graph gives it, and scales it to length 1.

    What the graph gives as a text's embedding is served as it is, unless the metadata field `normalize` is true.
    """

    needs_offsets = False

    def __init__(self, bundle: Bundle, graph: Signature) -> None:
        spec = find_embedding(graph)
        if spec is None:
            raise refused("the graph has no output of floating point that could be an embedding")
        self.output, self.rank = spec.name, len(spec.shape)
        self._pools = self.rank == 3
        if self._pools:
            bundle.check_modules()
        self._takes_first = self._pools and bundle.pooling == CLS
        self._normalizes = bundle.flag("normalize", default=self._pools)
        self._width = max(spec.shape[-1], 0)

    def ask(self, inputs: Mapping[str, Tensor]) -> Asked:
        """Take each text by itself."""
        return Asked(texts_of(TEXT, inputs[TEXT]))

    def blank(self) -> Tensor:
        """Give no embedding."""
        return np.zeros((0, self._width), np.float32)

    def read(self, values: Tensor, batch: Batch, asked: Asked) -> Tensor:  # noqa: ARG002 - as in the protocol
        """Pool and normalise."""
        embeddings: Floats = np.asarray(values, np.float32)
        if self._takes_first:
            embeddings = embeddings[:, 0]
        elif self._pools:
            weights = batch.mask.astype(np.float32)
            counts = np.maximum(batch.lengths, 1).astype(np.float32)
            embeddings = (weights[:, None, :] @ embeddings)[:, 0] / counts[:, None]
        if self._normalizes:
            norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
            embeddings = embeddings / np.maximum(norms, SMALLEST_NORM)
        return embeddings

    def answer(self, rows: Tensor, asked: Asked) -> dict[str, Tensor]:  # noqa: ARG002 - as in the protocol
        """Give the embeddings."""
        return {"embedding": rows}


class ClassHead:
    """Classes of whole texts: a softmax, or a sigmoid for each where several may hold or there is but one."""

    needs_offsets = False
    rank = 2

    def __init__(self, bundle: Bundle, graph: Signature) -> None:
        self.output, self._width = logits_of(graph, self.rank)
        self._labels = bundle.labels
        self._multi_label = bundle.multi_label

    def ask(self, inputs: Mapping[str, Tensor]) -> Asked:
        """Take each text by itself."""
        return Asked(texts_of(TEXT, inputs[TEXT]))

    def blank(self) -> Tensor:
        """Give no scores."""
        return np.zeros((0, self._width), np.float32)

    def read(self, values: Tensor, batch: Batch, asked: Asked) -> Tensor:  # noqa: ARG002 - as in the protocol
        """Turn logits into shares."""
        return sigmoid(values) if self._multi_label or values.shape[-1] == 1 else softmax(values)

    def answer(self, rows: Tensor, asked: Asked) -> dict[str, Tensor]:  # noqa: ARG002 - as in the protocol
        """Give the best class, its score, and all scores."""
        best = rows.argmax(axis=1) if len(rows) else np.zeros(0, np.int64)
        labels = [self._labels.get(number, f"LABEL_{number}").encode() for number in best.tolist()]
        score = rows[np.arange(len(rows)), best]
        return {"label": objects(labels), "score": score, "scores": rows}


class RerankingHead:
    """How well a text answers a query: a sigmoid of the one logit, or the second of two classes."""

    needs_offsets = False
    rank = 2

    def __init__(self, bundle: Bundle, graph: Signature) -> None:
        self.output, width = logits_of(graph, self.rank)
        if width > 2:
            raise refused(f"the graph gives {width} scores a pair; a reranker gives one, or one against and one for")
        self._raw = bundle.raw_scores

    def ask(self, inputs: Mapping[str, Tensor]) -> Asked:
        """Take each query with its text."""
        check_rows(inputs, QUERY, TEXT)
        queries, texts = texts_of(QUERY, inputs[QUERY]), texts_of(TEXT, inputs[TEXT])
        return Asked(list(zip(queries, texts, strict=True)))

    def blank(self) -> Tensor:
        """Give no score."""
        return np.zeros(0, np.float32)

    def read(self, values: Tensor, batch: Batch, asked: Asked) -> Tensor:  # noqa: ARG002 - as in the protocol
        """Turn logits into scores."""
        if values.shape[-1] == 2:
            return softmax(values)[:, 1]
        logits = np.asarray(values, np.float32)[:, 0]
        return logits if self._raw else sigmoid(logits)

    def answer(self, rows: Tensor, asked: Asked) -> dict[str, Tensor]:  # noqa: ARG002 - as in the protocol
        """Give the scores."""
        return {"score": rows}


def head_of(task: Task, bundle: Bundle, graph: Signature) -> Head:
    """Build a task's head; raises FailedPrecondition(MODEL_LOAD_FAILED) where graph and task do not fit."""
    match task:
        case Task.EMBEDDING:
            return EmbeddingHead(bundle, graph)
        case Task.TEXT_CLASSIFICATION:
            return ClassHead(bundle, graph)
        case Task.RERANKING:
            return RerankingHead(bundle, graph)
        case Task.TOKEN_CLASSIFICATION:
            return EntityHead(bundle, logits_of(graph, EntityHead.rank)[0])
        case Task.ZERO_SHOT:
            return ZeroShotHead(bundle, *logits_of(graph, ZeroShotHead.rank))


def logits_of(graph: Signature, rank: int) -> tuple[str, int]:
    """Find the name and the width of the logits; raises FailedPrecondition where there are none of this rank."""
    spec = find_logits(graph)
    if spec is None or len(spec.shape) != rank:
        outputs = ", ".join(f"{each.name!r} {list(each.shape)}" for each in graph.outputs)
        raise refused(f"the task needs an output 'logits' of rank {rank}; the graph gives {outputs}")
    return spec.name, max(spec.shape[-1], 0)
