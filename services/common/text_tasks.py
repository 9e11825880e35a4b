"""What a Transformers bundle may be for, by the names that people give it."""

from __future__ import annotations

import enum
from typing import Final


class Task(enum.Enum):
    """What a bundle does with a text, named as in Hugging Face's pipelines."""

    EMBEDDING = "feature-extraction"
    TEXT_CLASSIFICATION = "text-classification"
    TOKEN_CLASSIFICATION = "token-classification"  # noqa: S105 - a task, and no password
    ZERO_SHOT = "zero-shot-classification"
    RERANKING = "text-ranking"


_ALIASES: Final = {
    "sentence-similarity": Task.EMBEDDING,
    "text-embedding": Task.EMBEDDING,
    "embedding": Task.EMBEDDING,
    "embeddings": Task.EMBEDDING,
    "embed": Task.EMBEDDING,
    "sentiment-analysis": Task.TEXT_CLASSIFICATION,
    "classification": Task.TEXT_CLASSIFICATION,
    "ner": Task.TOKEN_CLASSIFICATION,
    "zero-shot": Task.ZERO_SHOT,
    "nli": Task.ZERO_SHOT,
    "reranking": Task.RERANKING,
    "rerank": Task.RERANKING,
}
_NAMES: Final = {**{task.value: task for task in Task}, **_ALIASES}
TASK_TYPES: Final = ", ".join(task.value for task in Task)
"""For the sentence that says what a task type may be."""
TASK_NAMES: Final = tuple(_NAMES)
"""All that a task type may be, the short names too."""
MEAN, CLS = "mean", "cls"
"""How the tokens' vectors may become the text's, as the metadata field `pooling` says."""
POOLINGS: Final = {"pooling_mode_mean_tokens": MEAN, "pooling_mode_cls_token": CLS}
"""What sentence-transformers calls them in 1_Pooling/config.json."""
KNOWN_MODULES: Final = frozenset({"Transformer", "Pooling", "Normalize"})
"""Classes of modules.json that are served; what another computes has to be inside the graph."""


def find_named(task_type: str) -> Task | None:
    """Find the task that a task type names, whatever its case and with _ for - ; None: no task is called so."""
    return _NAMES.get(task_type.strip().lower().replace("_", "-"))
