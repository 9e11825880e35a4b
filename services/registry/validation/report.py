"""What validation finds: the one answer that crosses from the child process to the registry.

Plain frozen dataclasses, so that the child can write them as JSON with nothing but the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

_NAME_LENGTH = 250


class FailureReason(StrEnum):
    """Why a version is FAILED: a stable contract that programs test for."""

    UNSUPPORTED_FRAMEWORK = "UNSUPPORTED_FRAMEWORK"
    INVALID_LAYOUT = "INVALID_LAYOUT"
    UNSAFE_FILE = "UNSAFE_FILE"
    NOT_ONNX = "NOT_ONNX"
    NOT_TENSORFLOW = "NOT_TENSORFLOW"
    NOT_KERAS = "NOT_KERAS"
    TFJS_UNSUPPORTED = "TFJS_UNSUPPORTED"
    INVALID_MODEL = "INVALID_MODEL"
    INVALID_TOKENIZER = "INVALID_TOKENIZER"
    TOKENIZER_MISMATCH = "TOKENIZER_MISMATCH"
    EXTERNAL_DATA_INVALID = "EXTERNAL_DATA_INVALID"
    CUSTOM_OPERATOR = "CUSTOM_OPERATOR"
    FORBIDDEN_OPERATOR = "FORBIDDEN_OPERATOR"
    FORBIDDEN_LAYER = "FORBIDDEN_LAYER"
    AMBIGUOUS_SIGNATURE = "AMBIGUOUS_SIGNATURE"
    UNSUPPORTED_INPUT_TYPE = "UNSUPPORTED_INPUT_TYPE"
    UNSUPPORTED_OUTPUT_TYPE = "UNSUPPORTED_OUTPUT_TYPE"
    SIGNATURE_MISMATCH = "SIGNATURE_MISMATCH"
    VALIDATOR_CRASHED = "VALIDATOR_CRASHED"
    VALIDATOR_TIMEOUT = "VALIDATOR_TIMEOUT"
    VALIDATOR_OUT_OF_MEMORY = "VALIDATOR_OUT_OF_MEMORY"
    SANDBOX_UNAVAILABLE = "SANDBOX_UNAVAILABLE"


class Refusal(Exception):
    """The model is refused: raised where it is found out, answered as a `Failure`."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def out_of_memory(detail: str = "") -> Refusal:
    """Refuse a model that asks for more than the child may have; `detail` is what its runtime said."""
    message = "the model asked for more memory than validation allows (the limit grows with the files' size)"
    return Refusal(FailureReason.VALIDATOR_OUT_OF_MEMORY, f"{message}: {detail}" if detail else message)


def checked_name(name: str, kind: str) -> str:
    """Give the name of an input or output if programs can live with it; raises Refusal(INVALID_MODEL) otherwise."""
    if one_line(name, _NAME_LENGTH) != name or not name:
        raise Refusal(
            FailureReason.INVALID_MODEL,
            f"the name {one_line(name, _NAME_LENGTH)!r} of an {kind} is longer than {_NAME_LENGTH} characters or "
            "holds control characters; rename it",
        )
    return name


def one_line(text: str, limit: int) -> str:
    """Make text from a file fit for a message, a log and a database: one printable line of `limit` characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text[: 4 * limit]).split())[:limit]


@dataclass(frozen=True, slots=True)
class Failure:
    """A refused model: the reason for programs, a sentence for people (it names no path of the server)."""

    reason: FailureReason
    message: str


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output, named as the model names it.

    `datatype` is the Open Inference Protocol's name (FP32, INT64, BYTES, …). `shape` has -1 for each dimension
    that the model leaves open; () is a scalar.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """The inputs and outputs of a model, in the model's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """The outcome of one validation. `failure` is None when the model can be served.

    `opset` is the version of the default operator domain (0: none imported), `opsets` the one of every domain.
    `rows_independent` is true only where batches were run and equalled their rows alone; otherwise
    `rows_independent_reason` is the sentence that says why not. `sandbox` names the protections that were in
    force while the file was open. `peak_memory_bytes` is the child's largest resident size, 0 when it never
    answered. `diagnostics` is the end of what the child wrote to stderr: for the log, never for clients.
    """

    failure: Failure | None = None
    signature: Signature | None = None
    opset: int = 0
    opsets: dict[str, int] | None = None
    ir_version: int = 0
    producer: str = ""
    rows_independent: bool = False
    rows_independent_reason: str = ""
    duration_ms: int = 0
    peak_memory_bytes: int = 0
    sandbox: tuple[str, ...] = ()
    diagnostics: str = ""

    @property
    def ok(self) -> bool:
        """Whether the model passed."""
        return self.failure is None


def check_declared(declared: Signature, found: Signature) -> Failure | None:
    """Compare the signature that a registration declares with the one in the file; None when they agree.

    Every tensor must be declared, by name and in any order, with the same datatype and rank. A dimension that
    the file fixes must be declared as it is; one that the file leaves open may be declared open or narrowed.
    """
    for kind, claimed, real in (
        ("input", declared.inputs, found.inputs),
        ("output", declared.outputs, found.outputs),
    ):
        claims, reals = {spec.name: spec for spec in claimed}, {spec.name: spec for spec in real}
        contradiction = _names_differ(kind, claims, reals) or next(
            filter(None, (_spec_differs(kind, claims[name], reals[name]) for name in reals)), None
        )
        if contradiction:
            message = f"{contradiction}; correct the declared signature, or leave it out to take the file's"
            return Failure(FailureReason.SIGNATURE_MISMATCH, message)
    return None


def _names_differ(kind: str, claims: dict[str, TensorSpec], reals: dict[str, TensorSpec]) -> str | None:
    if claims.keys() == reals.keys():
        return None
    return f"the declared {kind}s are {sorted(claims)}, those of the file {sorted(reals)}"


def _spec_differs(kind: str, claim: TensorSpec, real: TensorSpec) -> str | None:
    if claim.datatype != real.datatype:
        return f"{kind} {claim.name!r} is declared {claim.datatype}, and the file has {real.datatype}"
    fits = len(claim.shape) == len(real.shape) and all(
        fixed in (-1, size) for size, fixed in zip(claim.shape, real.shape, strict=True)
    )
    if not fits:
        return f"{kind} {claim.name!r} is declared with shape {list(claim.shape)}, and the file has {list(real.shape)}"
    return None
