"""Texts as vectors, and items in the order in which they suit somebody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.api.inference.v1 import inference_pb2 as pb
from penstock.errors import FieldViolation, InvalidArgument
from penstock.inference_connection import InferenceConnected
from penstock.values import to_struct

ITEM_FIELDS = ("id", "name", "description", "category")


@dataclass(frozen=True, slots=True, eq=False)
class Embeddings:
    """Texts as vectors.

    Attributes:
        inference_id: the UUIDv7 under which the call is recorded.
        vectors: one for each text, in their order: [texts, dimensions].
        model: the model.
        version: the version that answered.
        latency_ms: inside the server, in ms.
    """

    inference_id: str
    vectors: NDArray[np.float32]
    model: str
    version: str
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Item:
    """Something that can be offered: an id of your own, and what is known of it."""

    id: str
    name: str = ""
    description: str = ""
    category: str = ""


@dataclass(frozen=True, slots=True)
class RankedItem:
    """An item's id and how well it suits; 0 where `error` says why it could not be scored."""

    id: str
    score: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Items, best first; those that could not be scored come last.

    Attributes:
        inference_id: the UUIDv7 under which the call is recorded; feedback is given with it, and with the item's place
            in what was sent as the row.
        items: best first.
        model: the model.
        version: the version that answered.
        latency_ms: inside the server, in ms.
    """

    inference_id: str
    items: tuple[RankedItem, ...]
    model: str
    version: str
    latency_ms: float


class InferenceTexts(InferenceConnected):
    """What the inference client says of texts."""

    def embed(
        self,
        model: str,
        texts: Sequence[str],
        *,
        version: str = "",
        user_id: str = "",
        session_id: str = "",
        request_id: str = "",
        skip_cache: bool = False,
        timeout_s: float | None = None,
        retry: bool = False,
    ) -> Embeddings:
        """Turn texts into vectors, with any model that gives one for each.

        Args:
            model: the model.
            texts: 1 to 10,000, none empty; what a text has beyond the model's reach is cut off.
            version: an exact version, a stage, `latest`; empty: PRODUCTION, else the latest.
            user_id: who it is for; at most 256 characters, kept with the event.
            session_id: likewise.
            request_id: the caller's own id, at most 256 characters; empty: the inference id.
            skip_cache: neither look into the response cache nor keep the answers there.
            timeout_s: in seconds; None: the client's. Thousands of texts take a while.
            retry: try again where the service is unavailable or busy; each try that got through is recorded.

        Raises:
            InvalidArgument: no text, too many, or an empty one; `violations` names it.
            FailedPrecondition: the model does not embed (NOT_AN_EMBEDDING_MODEL), or could not be loaded.
            PenstockError: as `predict`.
        """
        if isinstance(texts, str):
            raise _refused("texts", "one string came; give a list of them")
        request = pb.EmbedRequest(
            model=model,
            version=version,
            texts=texts,
            user_id=user_id,
            session_id=session_id,
            request_id=request_id,
            skip_cache=skip_cache,
        )
        answer = self._connection.unary(self._connection.stub.Embed, request, timeout_s=timeout_s, retry=retry)
        vectors = np.empty((len(answer.embeddings), answer.dimensions), np.float32)
        for row, embedding in enumerate(answer.embeddings):
            vectors[row] = embedding.values
        return Embeddings(answer.inference_id, vectors, answer.model, answer.version, answer.latency_ms)

    def rank(
        self,
        model: str,
        context: Mapping[str, Any],
        items: Iterable[Item | Mapping[str, str]],
        *,
        top_k: int = 0,
        version: str = "",
        user_id: str = "",
        session_id: str = "",
        request_id: str = "",
        skip_cache: bool = False,
        timeout_s: float | None = None,
        retry: bool = False,
    ) -> Ranking:
        """Put items in the order in which they suit a user, best first.

        Args:
            model: one that embeds (the score is a cosine, -1 to 1), or one that reranks (its own score).
            context: what is known of the user, or of what is looked for: texts, numbers, booleans or lists of them.
                The values, in the order of their names, make the query.
            items: 1 to 10,000 with distinct ids, as `Item` or as mappings with `id`, `name`, `description`, `category`.
            top_k: how many of the best are wanted; 0: all.
            version: as for `embed`, and so the rest.
            user_id: see `embed`.
            session_id: see `embed`.
            request_id: see `embed`.
            skip_cache: see `embed`.
            timeout_s: see `embed`.
            retry: see `embed`.

        Raises:
            InvalidArgument: an empty context, bad or repeated ids; `violations` names it.
            FailedPrecondition: the model neither embeds nor reranks (NOT_AN_EMBEDDING_MODEL), or could not be loaded.
            PenstockError: as `predict`.
        """
        request = pb.RankRequest(
            model=model,
            version=version,
            context=to_struct(context),
            items=[_item(place, item) for place, item in enumerate(items)],
            top_k=top_k,
            user_id=user_id,
            session_id=session_id,
            request_id=request_id,
            skip_cache=skip_cache,
        )
        answer = self._connection.unary(self._connection.stub.Rank, request, timeout_s=timeout_s, retry=retry)
        ranked = tuple(RankedItem(item.id, item.score, item.error) for item in answer.items)
        return Ranking(answer.inference_id, ranked, answer.model, answer.version, answer.latency_ms)


def _item(place: int, item: Item | Mapping[str, str]) -> pb.RankItem:
    if isinstance(item, Item):
        return pb.RankItem(id=item.id, name=item.name, description=item.description, category=item.category)
    unknown = [name for name in item if name not in ITEM_FIELDS]
    if unknown or not all(isinstance(value, str) for value in item.values()):
        raise _refused(f"items[{place}]", f"an item has {', '.join(ITEM_FIELDS)}, and each is a text; got {dict(item)}")
    return pb.RankItem(**item)


def _refused(name: str, sentence: str) -> InvalidArgument:
    return InvalidArgument(f"{name}: {sentence}", reason="INVALID_FIELD", violations=[FieldViolation(name, sentence)])
