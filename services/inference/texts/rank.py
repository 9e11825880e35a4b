"""The use case of Rank: items and a user's context in, the items in the order in which they suit, best first.

With an embedding model an item's score is the cosine of its text's vector and the context's; with a reranking one, what
the model says of the pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from services.common.errors import DomainError
from services.inference.models import ANY, ModelFailed, NotAskedLikeThat, ResolvedVersion
from services.inference.texts.attempts import Asked, Attempt, TextRuns
from services.inference.texts.embed import FLOATS, as_vectors, bytes_tensor, find_embedding

QUERY: Final = "query"
TEXT: Final = "text"
SCORE: Final = "score"
NO_TEXT: Final = "the item has no name, description or category to be judged by"
NO_SCORE: Final = "the model gave no finite score for this item"
NO_VECTOR: Final = "the model gave no usable vector for this item: all zeros, or not finite"


@dataclass(frozen=True, slots=True)
class Item:
    """What can be offered: the caller's id, and its text, which may be empty."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class RankedItem:
    """An item and how well it suits; where `error` says why it has no score, that is 0."""

    id: str
    score: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Items, best first, those without a score last; of equal ones the one that came first."""

    inference_id: str
    version: ResolvedVersion
    items: list[RankedItem]
    latency_ms: float


class ItemRanker:
    """Ranks items and records each call, the failed ones too."""

    def __init__(self, runs: TextRuns) -> None:
        self._runs = runs

    def rank(self, query: str, items: Sequence[Item], asked: Asked, *, top_k: int = 0) -> Ranking:
        """Rank items for a query; `top_k` is how many of the best are given, 0: all.

        The event keeps the items in the caller's order, so that feedback can name a row.

        Raises:
            NotAskedLikeThat: NOT_AN_EMBEDDING_MODEL.
            DomainError: see `Engine.submit` and `Catalog.resolve`; what the model says of the query fails all.
        """
        with self._runs.attempt(asked) as attempt:
            event = attempt.event
            event.row_count = len(items)
            event.inputs = {
                QUERY: bytes_tensor([query]),
                "id": bytes_tensor([item.id for item in items]),
                TEXT: bytes_tensor([item.text for item in items]),
            }
            scored = _scored(attempt, query, items)
            event.outputs = {SCORE: np.array([item.score for item in scored], np.float64)}
        ranked = sorted(scored, key=lambda item: (bool(item.error), -item.score))
        return Ranking(event.inference_id, attempt.version, ranked[: top_k or None], event.latency_ms)


def _scored(attempt: Attempt, query: str, items: Sequence[Item]) -> list[RankedItem]:
    """Score the items, in their order."""
    version = attempt.version
    names = find_embedding(version)
    if names is None and not _reranks(version):
        raise NotAskedLikeThat(
            f"{version.model} {version.version} neither embeds nor reranks: a model that embeds takes one BYTES tensor "
            "[-1] and gives one float tensor [-1, n], one that reranks takes `query` and `text` and gives `score`",
            reason="NOT_AN_EMBEDDING_MODEL",
        )
    ranked = [RankedItem(item.id, 0.0, NO_TEXT) for item in items]
    places = [place for place, item in enumerate(items) if item.text]
    if places:
        texts = [items[place].text for place in places]
        scores, errors = _paired(attempt, query, texts) if names is None else _compared(attempt, names, query, texts)
        for place, score, error in zip(places, scores, errors, strict=True):
            ranked[place] = RankedItem(items[place].id, 0.0 if error else score, error)
    return ranked


def _paired(attempt: Attempt, query: str, texts: list[str]) -> tuple[list[float], list[str]]:
    """Let a reranker judge each text beside the query."""
    answered = attempt.answer(
        {QUERY: bytes_tensor([query] * len(texts)), TEXT: bytes_tensor(texts)}, SCORE, forgiving=True
    )
    if not answered.values.size:
        return [0.0] * len(texts), [answered.errors[row].message for row in range(len(texts))]
    scores = np.asarray(answered.values, np.float64)
    return scores.tolist(), _errors(answered.errors, np.isfinite(scores).tolist(), NO_SCORE)


def _compared(attempt: Attempt, names: tuple[str, str], query: str, texts: list[str]) -> tuple[list[float], list[str]]:
    """Embed query and texts at once, and take the cosines; the model need not have normalised its vectors."""
    name, output = names
    answered = attempt.answer({name: bytes_tensor([query, *texts])}, output, forgiving=True)
    if 0 in answered.errors:
        raise answered.errors[0]
    vectors = np.asarray(as_vectors(answered.values), np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    usable = np.isfinite(norms) & (norms > 0)
    if not usable[0]:
        raise ModelFailed("the model gave no usable vector for the context: all zeros, or not finite")
    units = vectors / np.where(usable, norms, 1.0)[:, None]
    cosines = np.clip(units[1:] @ units[0], -1.0, 1.0)
    errors = {row - 1: error for row, error in answered.errors.items()}
    return cosines.tolist(), _errors(errors, usable[1:].tolist(), NO_VECTOR)


def _errors(errors: dict[int, DomainError], usable: list[bool], otherwise: str) -> list[str]:
    return [
        errors[row].message if row in errors else "" if is_usable else otherwise for row, is_usable in enumerate(usable)
    ]


def _reranks(version: ResolvedVersion) -> bool:
    signature = version.signature
    takes = {(spec.name, spec.datatype, spec.shape) for spec in signature.inputs}
    scores = [spec for spec in signature.outputs if spec.name == SCORE and spec.datatype in FLOATS]
    return takes == {(name, "BYTES", (ANY,)) for name in (QUERY, TEXT)} and [spec.shape for spec in scores] == [(ANY,)]
