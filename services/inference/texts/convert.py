"""Protobuf ↔ values for Embed and Rank."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from google.protobuf.struct_pb2 import Struct, Value

from penstock.api.inference.v1 import inference_pb2 as pb
from services.common.errors import FieldViolation, InvalidArgument
from services.inference.convert import MAX_ID_CHARS, check_ids
from services.inference.models import Caller
from services.inference.texts.attempts import Asked, OnCancel
from services.inference.texts.embed import Embeddings
from services.inference.texts.rank import Item, Ranking

MAX_TEXTS: Final = 10_000
MAX_SHOWN_VIOLATIONS: Final = 10
MAX_SHOWN_CHARS: Final = 64


def asked_of(request: pb.EmbedRequest | pb.RankRequest, timeout_s: float | None, on_cancel: OnCancel) -> Asked:
    """Read which model is asked and for whom; raises InvalidArgument (INVALID_FIELD) as `check_ids` does."""
    ids = {"user_id": request.user_id, "session_id": request.session_id, "request_id": request.request_id}
    check_ids(request.model, ids)
    return Asked(
        request.model,
        request.version,
        Caller(ids["user_id"], ids["session_id"], ids["request_id"]),
        timeout_s,
        on_cancel,
        request.skip_cache,
    )


def texts_of(request: pb.EmbedRequest) -> list[str]:
    """Read the texts; raises InvalidArgument(INVALID_FIELD) for none, too many, or an empty one."""
    texts = list(request.texts)
    _refuse(_bad_count("texts", len(texts)))
    _refuse(FieldViolation(f"texts[{row}]", "it is empty") for row, text in enumerate(texts) if not text)
    return texts


def embed_response(found: Embeddings) -> pb.EmbedResponse:
    """Write the vectors."""
    return pb.EmbedResponse(
        inference_id=found.inference_id,
        embeddings=[pb.Embedding(values=vector) for vector in found.vectors.tolist()],
        dimensions=found.vectors.shape[1],
        model=found.version.model,
        version=found.version.version,
        latency_ms=found.latency_ms,
    )


def query_of(context: Struct) -> str:
    """Make the query of the context: its values in the order of their names, a sentence each.

    Raises InvalidArgument(INVALID_FIELD) where there are none, or one is neither text, number, boolean nor a list of
    them.
    """
    sentences = [_words(f"context.{name[:MAX_SHOWN_CHARS]}", context.fields[name]) for name in sorted(context.fields)]
    query = _joined(sentences)
    if not query:
        _refuse([FieldViolation("context", "it says nothing; give at least one text, number or boolean")])
    return query


def items_of(request: pb.RankRequest) -> list[Item]:
    """Read the items; raises InvalidArgument(INVALID_FIELD) for bad numbers of them, and bad or repeated ids."""
    _refuse(_bad_count("items", len(request.items)))
    if request.top_k < 0:
        _refuse([FieldViolation("top_k", f"{request.top_k} came; 0, for all, or more are allowed")])
    _refuse(_bad_item_ids(request.items))
    return [Item(item.id, _joined([item.name, item.description, item.category])) for item in request.items]


def rank_response(found: Ranking) -> pb.RankResponse:
    """Write the items in their order."""
    return pb.RankResponse(
        inference_id=found.inference_id,
        items=[pb.RankedItem(id=item.id, score=item.score, error=item.error) for item in found.items],
        model=found.version.model,
        version=found.version.version,
        latency_ms=found.latency_ms,
    )


def _bad_count(name: str, count: int) -> Iterator[FieldViolation]:
    if not 1 <= count <= MAX_TEXTS:
        yield FieldViolation(name, f"{count} came; 1 to {MAX_TEXTS} are allowed")


def _bad_item_ids(items: Iterable[pb.RankItem]) -> Iterator[FieldViolation]:
    seen: set[str] = set()
    for place, item in enumerate(items):
        if not 1 <= len(item.id) <= MAX_ID_CHARS:
            yield FieldViolation(
                f"items[{place}].id", f"{len(item.id)} characters came; 1 to {MAX_ID_CHARS} are allowed"
            )
        elif item.id in seen:
            yield FieldViolation(
                f"items[{place}].id", f"{item.id[:MAX_SHOWN_CHARS]!r} came before; ids must be distinct"
            )
        seen.add(item.id)


def _refuse(violations: Iterable[FieldViolation]) -> None:
    """Raise InvalidArgument where there are any; the first few are said."""
    found = [violation for violation, _ in zip(violations, range(MAX_SHOWN_VIOLATIONS), strict=False)]
    if found:
        sentence = "; ".join(f"{violation.field}: {violation.description}" for violation in found)
        raise InvalidArgument(sentence, reason="INVALID_FIELD", violations=tuple(found))


def _words(name: str, value: Value, *, within: bool = False) -> str:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            number = value.number_value
            return str(int(number)) if number.is_integer() else repr(number)
        case "bool_value":
            return "true" if value.bool_value else "false"
        case "list_value" if not within:
            words = (_words(name, each, within=True) for each in value.list_value.values)
            return ", ".join(filter(None, words))
        case "null_value" | None:
            return ""
    violation = FieldViolation(
        name, "an object, or a list in a list, came; give texts, numbers, booleans or a list of them"
    )
    raise InvalidArgument(f"{name}: {violation.description}", reason="INVALID_FIELD", violations=(violation,))


def _joined(sentences: Iterable[str]) -> str:
    """Set what is given one after the other, a full stop between two unless one stands there."""
    text = ""
    for sentence in filter(None, map(str.strip, sentences)):
        ended = not text or text[-1] in ".!?…。"
        text += sentence if not text else f" {sentence}" if ended else f". {sentence}"
    return text
