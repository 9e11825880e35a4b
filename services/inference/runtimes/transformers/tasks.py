"""What a Transformers bundle is for, and what it takes and gives when it is served: texts, in place of the graph's ids.

Read off what the registry says alone, so that a version's inputs are known before its files are here.
"""

from __future__ import annotations

from typing import Final

from services.common.text_tasks import Task, find_named
from services.inference.models import ANY, Metadata, Signature, TensorSpec

TEXT: Final = "text"
LABELS: Final = "labels"
QUERY: Final = "query"
FLOATS: Final = ("FP16", "FP32", "FP64")
READY_EMBEDDINGS: Final = ("sentence_embedding", "sentence_embeddings", "text_embeds", "embedding", "embeddings")
"""Outputs of shape [texts, dimensions] that stand for the whole text; the first that a graph has is served."""
TOKEN_OUTPUTS: Final = ("last_hidden_state", "token_embeddings")
"""Outputs of shape [texts, tokens, dimensions], pooled to an embedding."""
LOGITS: Final = "logits"


def find_task(metadata: Metadata, graph: Signature) -> Task | None:
    """Find the task by `task_type` (a pipeline's name or an alias), else by the graph's outputs; None: unknown.

    Logits of rank 2 classify texts, or with a single column rerank; of rank 3 they classify tokens. What else is of
    floating point embeds.
    """
    if metadata.task_type.strip():
        return find_named(metadata.task_type)
    logits = find_logits(graph)
    if logits is not None:
        ranks = {2: Task.RERANKING if logits.shape[-1] == 1 else Task.TEXT_CLASSIFICATION, 3: Task.TOKEN_CLASSIFICATION}
        return ranks.get(len(logits.shape))
    return Task.EMBEDDING if find_embedding(graph) else None


def find_logits(graph: Signature) -> TensorSpec | None:
    """Find the output with the scores of classes: the one named so."""
    return next((spec for spec in graph.outputs if spec.name == LOGITS and spec.datatype in FLOATS), None)


def find_embedding(graph: Signature) -> TensorSpec | None:
    """Find the output that embeds: a whole text's by name, else the tokens', else the first float that is either."""
    floats = {spec.name: spec for spec in graph.outputs if spec.datatype in FLOATS and len(spec.shape) in (2, 3)}
    named = next((floats[name] for name in (*READY_EMBEDDINGS, *TOKEN_OUTPUTS) if name in floats), None)
    return named or next(iter(floats.values()), None)


def served_signature(metadata: Metadata, graph: Signature) -> Signature:
    """Say what a bundle takes and gives when it is served.

    Rows are texts throughout. An unknown task gives a signature without outputs: loading says what is wrong with it.
    """
    text = TensorSpec(TEXT, "BYTES", (ANY,))
    score = TensorSpec("score", "FP32", (ANY,))
    label = TensorSpec("label", "BYTES", (ANY,))
    match find_task(metadata, graph):
        case Task.EMBEDDING:
            return Signature((text,), (TensorSpec("embedding", "FP32", (ANY, _width(find_embedding(graph)))),))
        case Task.TEXT_CLASSIFICATION:
            scores = TensorSpec("scores", "FP32", (ANY, _width(find_logits(graph))))
            return Signature((text,), (label, score, scores))
        case Task.TOKEN_CLASSIFICATION:
            return Signature((text,), (TensorSpec("entities", "BYTES", (ANY,)),))
        case Task.ZERO_SHOT:
            labels, ranking = TensorSpec(LABELS, "BYTES", (ANY,)), TensorSpec("ranking", "BYTES", (ANY,))
            return Signature((text, labels), (label, score, ranking))
        case Task.RERANKING:
            return Signature((TensorSpec(QUERY, "BYTES", (ANY,)), text), (score,))
        case None:
            return Signature((text,), ())


def _width(spec: TensorSpec | None) -> int:
    return spec.shape[-1] if spec is not None else ANY
