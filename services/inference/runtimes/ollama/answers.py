"""What an Ollama server says, checked: pieces of text, vectors, and its refusals."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from services.common.errors import DomainError, FailedPrecondition, Unavailable
from services.inference.runtimes.runtime import Ending, FinishReason, Piece

LARGEST = float(np.finfo(np.float32).max)
NONSENSE = "OLLAMA_NONSENSE"
FAILED = "OLLAMA_FAILED"
MAX_SENTENCE_CHARS = 300
NOT_FOUND, REQUEST_TIMEOUT, TOO_MANY_REQUESTS, SERVER_ERROR = 404, 408, 429, 500
UNAUTHORIZED, FORBIDDEN = 401, 403
FINISH_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


class OllamaRefused(Unavailable):
    """The server will say the same again."""

    retryable = False


def parse(line: bytes) -> dict[str, Any]:
    """Read a line; raises Unavailable: OLLAMA_NONSENSE, or OLLAMA_FAILED where the line tells of an error."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _nonsense(f"{_shown(line)} is no JSON") from error
    if not isinstance(document, dict):
        raise _nonsense(f"{_shown(line)} is no object")
    if "error" in document:
        raise Unavailable(f"Ollama failed: {_sentence(document['error'])}", reason=FAILED)
    return document


def piece_of(document: Mapping[str, Any], mode: str) -> Piece:
    """Read a piece of a chat or of a generation; raises Unavailable(OLLAMA_NONSENSE)."""
    holder, name = (document.get("message"), "content") if mode == "chat" else (document, "response")
    text = holder.get(name, "") if isinstance(holder, Mapping) else None
    done = document.get("done")
    if not isinstance(text, str) or not isinstance(done, bool):
        raise _nonsense(f"{_shown(json.dumps(document).encode())} is no piece of a text")
    text = _sound(text)
    if not done:
        return Piece(text)
    reason = FINISH_REASONS.get(str(document.get("done_reason")), FinishReason.UNSPECIFIED)
    return Piece(text, Ending(reason, _count(document, "prompt_eval_count"), _count(document, "eval_count")))


def vector_of(document: Mapping[str, Any]) -> list[float]:
    """Read the vector of one text; raises Unavailable(OLLAMA_NONSENSE)."""
    vectors = document.get("embeddings")
    if not isinstance(vectors, list) or len(vectors) != 1 or not isinstance(vectors[0], list) or not vectors[0]:
        raise _nonsense("one text was sent, and not one vector came")
    vector = vectors[0]
    if not all(type(number) in (int, float) and abs(number) <= LARGEST for number in vector):  # not a NaN either
        raise _nonsense("a vector came that does not hold numbers of FP32 alone")
    return vector


def refusal(status: int, body: bytes, asked: Mapping[str, Any]) -> DomainError:
    """Say what a status other than 200 means."""
    said = _error_in(body)
    model = str(asked.get("model", ""))[:MAX_SENTENCE_CHARS]
    if status == NOT_FOUND and said:
        sentence = f"Ollama does not have the model {model!r} ({said}): `ollama pull {model}` brings it"
        return FailedPrecondition(sentence, reason="OLLAMA_MODEL_MISSING")
    advice = "; see PENSTOCK_OLLAMA_TOKEN_FILE" if status in (UNAUTHORIZED, FORBIDDEN) else ""
    sentence = f"Ollama answered {status}: {said or _shown(body)}{advice}"
    if status >= SERVER_ERROR or status in (REQUEST_TIMEOUT, TOO_MANY_REQUESTS):
        return Unavailable(sentence, reason=FAILED)
    return OllamaRefused(sentence, reason=FAILED)


def ended_early() -> Unavailable:
    """Make the error for an answer that stops before it is complete."""
    return Unavailable("Ollama's answer ended before it was complete", reason=FAILED)


def _nonsense(what: str) -> Unavailable:
    sentence = f"what answers at PENSTOCK_OLLAMA_URL does not speak as Ollama does: {what}"
    return Unavailable(sentence, reason=NONSENSE)


def _count(document: Mapping[str, Any], name: str) -> int:
    count = document.get(name, 0)  # left out where the whole prompt was in the server's cache
    if type(count) is not int or not 0 <= count < 2**63:
        raise _nonsense(f"{name} is no count")
    return count


def _error_in(body: bytes) -> str:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    return _sentence(document["error"]) if isinstance(document, dict) and "error" in document else ""


def _sentence(said: object) -> str:
    return _sound(" ".join(str(said).split()))[:MAX_SENTENCE_CHARS]


def _shown(line: bytes) -> str:
    text = " ".join(line[: 4 * MAX_SENTENCE_CHARS].decode(errors="replace").split())
    return repr(text[:60] + "…" if len(text) > 60 else text)


def _sound(text: str) -> str:
    """Replace half characters, which JSON can hold and no message can."""
    return text if text.isascii() else text.encode(errors="replace").decode()
