"""Protobuf ↔ values for Generate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from penstock.api.inference.v1 import inference_pb2 as pb
from services.common.errors import FieldViolation, InvalidArgument
from services.inference.convert import check_ids
from services.inference.generation.generator import GenerationRequest, Pieces, Written
from services.inference.models import Caller
from services.inference.runtimes.runtime import FinishReason, GenerationOptions

ROLES = ("system", "user", "assistant", "tool")
MAX_MESSAGES = 1_000
MAX_TOKENS = 1_000_000
MAX_TEMPERATURE = 2.0
MAX_STOPS = 16
MAX_STOP_CHARS = 256
MAX_TOP_K = 2**31 - 1
FINISH_REASONS = {reason: pb.FinishReason.Value(f"FINISH_REASON_{reason.name}") for reason in FinishReason}


def request_of(request: pb.GenerateRequest) -> GenerationRequest:
    """Read a request; raises InvalidArgument: INPUTS_REQUIRED, and INVALID_FIELD as `check_ids` does."""
    ids = {"user_id": request.user_id, "session_id": request.session_id, "request_id": request.request_id}
    check_ids(request.model, ids)
    if bool(request.prompt) == bool(request.messages):
        raise InvalidArgument.field(
            "prompt", "send one of `prompt` and `messages`: neither came, or both", reason="INPUTS_REQUIRED"
        )
    violations = [*_bad_messages(request), *_bad_options(request.options)]
    if violations:
        sentence = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        raise InvalidArgument(sentence, reason="INVALID_FIELD", violations=tuple(violations))
    return GenerationRequest(
        model=request.model,
        version=request.version,
        prompt=request.prompt,
        messages=tuple({"role": message.role, "content": message.content} for message in request.messages),
        options=_options(request.options),
        caller=Caller(ids["user_id"], ids["session_id"], ids["request_id"]),
    )


def responses_of(pieces: Pieces) -> Iterator[pb.GenerateResponse]:
    """Write the pieces as they come; leaving this leaves them."""
    with closing(pieces):
        for piece in pieces:
            yield _response(piece)


def _response(piece: Written) -> pb.GenerateResponse:
    response = pb.GenerateResponse(inference_id=piece.inference_id, text=piece.text)
    if piece.completion is not None:
        found = piece.completion
        response.completion.CopyFrom(
            pb.Completion(
                finish_reason=FINISH_REASONS[found.ending.finish_reason],
                prompt_token_count=found.ending.prompt_token_count,
                output_token_count=found.ending.output_token_count,
                first_token_ms=found.first_token_ms,
                latency_ms=found.latency_ms,
                model=found.version.model,
                version=found.version.version,
            )
        )
    return response


def _bad_messages(request: pb.GenerateRequest) -> Iterator[FieldViolation]:
    if len(request.messages) > MAX_MESSAGES:
        yield FieldViolation("messages", f"{len(request.messages)} came; at most {MAX_MESSAGES} are allowed")
        return
    for place, message in enumerate(request.messages):
        if message.role not in ROLES:
            came = repr(message.role[:32])
            yield FieldViolation(f"messages[{place}].role", f"{came} came; send one of {', '.join(ROLES)}")


def _bad_options(options: pb.GenerateOptions) -> Iterator[FieldViolation]:
    ranges = (
        ("max_tokens", 1 <= options.max_tokens <= MAX_TOKENS, f"1 to {MAX_TOKENS}"),
        ("temperature", 0 <= options.temperature <= MAX_TEMPERATURE, f"0 to {MAX_TEMPERATURE:g}"),
        ("top_p", 0 < options.top_p <= 1, "over 0 to 1"),
        ("top_k", 1 <= options.top_k <= MAX_TOP_K, "1 or more"),
    )
    for name, fits, allowed in ranges:
        if options.HasField(name) and not fits:  # type: ignore[arg-type] # names of fields, as written above
            yield FieldViolation(f"options.{name}", f"{getattr(options, name)} came; {allowed} is allowed")
    if len(options.stop) > MAX_STOPS:
        yield FieldViolation("options.stop", f"{len(options.stop)} came; at most {MAX_STOPS} are allowed")
    elif not all(1 <= len(text) <= MAX_STOP_CHARS for text in options.stop):
        yield FieldViolation("options.stop", f"a text of 1 to {MAX_STOP_CHARS} characters each is allowed")


def _options(options: pb.GenerateOptions) -> GenerationOptions:
    return GenerationOptions(
        max_tokens=options.max_tokens if options.HasField("max_tokens") else None,
        temperature=options.temperature if options.HasField("temperature") else None,
        top_p=options.top_p if options.HasField("top_p") else None,
        top_k=options.top_k if options.HasField("top_k") else None,
        seed=options.seed if options.HasField("seed") else None,
        stop=tuple(options.stop),
    )
