"""Text from a model, piece by piece as it writes."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from penstock.api.inference.v1 import inference_pb2 as pb
from penstock.errors import InvalidArgument, Unavailable
from penstock.inference_connection import InferenceConnected

IDLE_TIMEOUT_S = 300.0
"""A model may think, or be loaded, for longer than other streams are silent; the server has a shorter limit of its own
by default, and says what happened."""


@dataclass(frozen=True, slots=True)
class Completion:
    """How a generation ended and what it took.

    Attributes:
        finish_reason: `stop` (the model had said all, or met a stop text), `length` (`max_tokens`, or the model's own
            limit), or `unspecified`.
        prompt_token_count: tokens of the prompt, where the server counts them.
        output_token_count: tokens written.
        first_token_ms: from the request's arrival to the first piece, inside the server, in ms.
        latency_ms: from the request's arrival to the end, inside the server, in ms.
        model: the model.
        version: the version that answered.
    """

    finish_reason: str
    prompt_token_count: int
    output_token_count: int
    first_token_ms: float
    latency_ms: float
    model: str
    version: str


class Generated:
    """A text that is being written: iterate over its pieces, once. Leave the block, or `close` it, to end it early.

    Attributes:
        inference_id: under which it is recorded; empty until the first piece is there.
        completion: how it ended; None until it has, and for good where it was ended early.
    """

    def __init__(self, responses: Generator[pb.GenerateResponse, None, None]) -> None:
        self.inference_id = ""
        self.completion: Completion | None = None
        self._responses = responses

    def __iter__(self) -> Iterator[str]:
        """Give the pieces as they come.

        Raises:
            PenstockError: see `generate`; the pieces given before are not the whole text then.
        """
        for response in self._responses:
            self.inference_id = response.inference_id
            if response.HasField("completion"):
                self.completion = _completion(response.completion)
            if response.text:
                yield response.text
        if self.completion is None:
            raise Unavailable("the text broke off; ask again for another", reason="STREAM_ENDED_EARLY")

    def text(self) -> str:
        """Wait for the whole text, of which nothing was read yet."""
        return "".join(self)

    def close(self) -> None:
        """End the generation: the model writes no further."""
        self._responses.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class InferenceGeneration(InferenceConnected):
    """The part of the inference client that generates."""

    def generate(
        self,
        model: str,
        prompt: str | None = None,
        *,
        messages: Sequence[Mapping[str, str]] | None = None,
        version: str = "",
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
        stop: Sequence[str] = (),
        user_id: str = "",
        session_id: str = "",
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> Generated:
        """Have a text written, and read it while it is. Never retried: another text would follow on what was read.

            with client.inference.generate("writer", "Once upon a time") as generated:
                for piece in generated:
                    print(piece, end="")

        Args:
            model: a reference to Ollama, of mode chat or generate.
            prompt: the text to go on from, for a model of mode generate.
            messages: the conversation so far, oldest first, for a model of mode chat: mappings with `role` (`system`,
                `user`, `assistant` or `tool`) and `content`.
            version: an exact version, a stage, `latest`; empty: PRODUCTION, else the latest.
            max_tokens: the most to write, 1 to 1,000,000; None, here and below: the model's own.
            temperature: 0 to 2.
            top_p: over 0 to 1.
            top_k: 1 or more.
            seed: for the same text again.
            stop: texts that end it, at most 16.
            user_id: who it is for; at most 256 characters, kept with the event.
            session_id: likewise.
            request_id: the caller's own id, at most 256 characters; empty: the inference id.
            timeout_s: for the whole text, in seconds; None: as long as the server lets it take. Apart from that a
                silence of 5 minutes ends it.

        Raises, while it is read:
            InvalidArgument: `violations` names what is out of range.
            NotFound: no such model or version.
            FailedPrecondition: NOT_A_GENERATING_MODEL, WRONG_MODE, OLLAMA_MODEL_MISSING.
            Unavailable: OLLAMA_UNREACHABLE, OLLAMA_FAILED, OLLAMA_NONSENSE.
            DeadlineExceeded: OLLAMA_TIMEOUT, or no end within `timeout_s`.
        """
        if (prompt is None) == (messages is None):
            raise InvalidArgument("give either prompt or messages, and not both", reason="PROMPT_OR_MESSAGES")
        request = pb.GenerateRequest(
            model=model,
            version=version,
            prompt=prompt or "",
            messages=[_message(place, message) for place, message in enumerate(messages or ())],
            options=pb.GenerateOptions(
                max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, stop=stop
            ),
            user_id=user_id,
            session_id=session_id,
            request_id=request_id,
        )
        idle_timeout_s = max(IDLE_TIMEOUT_S, self._connection.idle_timeout_s)
        stub = self._connection.stub
        return Generated(
            self._connection.stream(stub.Generate, request, timeout_s=timeout_s, idle_timeout_s=idle_timeout_s)
        )


def _message(place: int, message: Mapping[str, str]) -> pb.ChatMessage:
    if set(message) != {"role", "content"}:
        raise InvalidArgument(
            f"messages[{place}]: it has {sorted(message)}; give `role` and `content`", reason="INVALID_MESSAGES"
        )
    return pb.ChatMessage(role=message["role"], content=message["content"])


def _completion(message: pb.Completion) -> Completion:
    try:
        reason = pb.FinishReason.Name(message.finish_reason).removeprefix("FINISH_REASON_").lower()
    except ValueError:  # of a newer server
        reason = "unspecified"
    return Completion(
        finish_reason=reason,
        prompt_token_count=message.prompt_token_count,
        output_token_count=message.output_token_count,
        first_token_ms=message.first_token_ms,
        latency_ms=message.latency_ms,
        model=message.model,
        version=message.version,
    )
