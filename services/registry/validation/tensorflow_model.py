"""Judges a version of TensorFlow: a SavedModel or a `.keras` file. TensorFlow is imported before the sandbox closes."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .keras_archive import read_archive
from .report import (
    FailureReason,
    Refusal,
    Signature,
    TensorSpec,
    ValidationReport,
    checked_name,
    one_line,
    out_of_memory,
)
from .tensorflow_graph import SavedModelFacts, read_saved_model
from .trial import Array, NotRunnable, Run, try_rows, with_seen_ranks

LAMBDAS, FILES = "keras-lambda", "tensorflow-files"
DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": "BF16",
    "float32": "FP32",
    "float64": "FP64",
    "string": "BYTES",
}
_SENTENCE_LENGTH = 500
# Where in the source of whom an error came from, which says nothing to who wrote the model.
_NOISE = re.compile(r"(?m)^(?:Graph execution error:|Detected at .*|  File .*|<.*>|Stack trace.*|\s+\^+)$")
_PLACE = re.compile(r"(?:/[\w.+-]+){2,}")


@dataclasses.dataclass(frozen=True, slots=True)
class _Opened:
    """A model in memory: how it is run, what it says of itself, and the outputs for which it declares no shape."""

    run: Run
    signature: Signature
    unshaped: frozenset[str]
    producer: str


def inspect(folder: str | None, archive: str, allowed: frozenset[str], *, signature_name: str = "") -> ValidationReport:
    """Refuse the model in this folder, or report what it is and how it behaves; raises Refusal.

    It is the SavedModel in `folder`, or where that is None the `.keras` file `archive`, as `layout` found them.
    `allowed`: `keras-lambda` and `tensorflow-files` let in what they name. `signature_name` is the SavedModel's
    signature to be served; '' takes the usual one.
    """
    if folder is None and signature_name:
        raise Refusal(
            FailureReason.AMBIGUOUS_SIGNATURE,
            f"a .keras file has no signatures, and the version's metadata asks for {_shown(signature_name)}; leave "
            "signature_name out, or export the model as a SavedModel (model.export)",
        )
    opened = _open_keras(archive, allowed) if folder is None else _open_saved_model(folder, allowed, signature_name)
    verdict = try_rows(opened.run, opened.signature, opened.unshaped)
    return ValidationReport(
        signature=with_seen_ranks(opened.signature, opened.unshaped, verdict),
        producer=opened.producer,
        rows_independent=verdict.rows_independent,
        rows_independent_reason=verdict.reason,
    )


def _open_saved_model(folder: str, allowed: frozenset[str], signature_name: str) -> _Opened:
    content = Path(folder, "saved_model.pb").read_bytes()
    facts = read_saved_model(content, files_allowed=FILES in allowed, signature_name=signature_name)
    # A path that cannot be taken for the address of another file system.
    model = _loaded(lambda: tf.saved_model.load(f"./{folder}", tags=list(facts.tags)), "SavedModel")
    function = model.signatures[facts.signature_name]
    signature, unshaped = _signature_of(facts)
    dtypes = {name: info.dtype for name, info in facts.signature.inputs.items()}

    def call(feeds: dict[str, Array]) -> dict[str, Any]:
        answers: dict[str, Any] = function(**{name: tf.constant(rows, dtypes[name]) for name, rows in feeds.items()})
        return answers

    # The model is held by whoever holds `call`: its variables go with it.
    return _Opened(_runner(call, model), signature, unshaped, facts.producer)


def _signature_of(facts: SavedModelFacts) -> tuple[Signature, frozenset[str]]:
    def specs(infos: Any, kind: str, reason: FailureReason) -> tuple[TensorSpec, ...]:
        # The file keeps them in no order of its own.
        return tuple(_saved_spec(name, infos[name], kind, reason) for name in sorted(infos))

    unshaped = frozenset(name for name, info in facts.signature.outputs.items() if info.tensor_shape.unknown_rank)
    inputs = specs(facts.signature.inputs, "input", FailureReason.UNSUPPORTED_INPUT_TYPE)
    for spec in inputs:
        if facts.signature.inputs[spec.name].tensor_shape.unknown_rank:
            raise Refusal(
                FailureReason.UNSUPPORTED_INPUT_TYPE,
                f"input {spec.name!r} declares no shape, so that nobody could tell what it takes; export the model "
                "with shapes (open dimensions are fine)",
            )
    return Signature(inputs, specs(facts.signature.outputs, "output", FailureReason.UNSUPPORTED_OUTPUT_TYPE)), unshaped


def _saved_spec(name: str, info: Any, kind: str, reason: FailureReason) -> TensorSpec:
    if info.WhichOneof("encoding") != "name":
        raise Refusal(reason, f"{kind} {_shown(name)} is sparse or ragged, and only dense tensors can be served")
    shape = tuple(dimension.size if dimension.size >= 0 else -1 for dimension in info.tensor_shape.dim)
    return _spec(name, tf.dtypes.as_dtype(info.dtype).name, shape, kind, reason)


def _spec(name: str, dtype: str, shape: tuple[int, ...], kind: str, reason: FailureReason) -> TensorSpec:
    checked_name(name, kind)
    datatype = DATATYPES.get(dtype)
    if datatype is None:
        raise Refusal(
            reason,
            f"{kind} {name!r} is a tensor of {dtype}, which cannot be served; cast it to one of "
            f"{', '.join(DATATYPES.values())} inside the model",
        )
    return TensorSpec(name, datatype, shape)


def _open_keras(path: str, allowed: frozenset[str]) -> _Opened:
    safe = LAMBDAS not in allowed
    producer = read_archive(Path(path), lambdas_allowed=not safe)
    model = _loaded(lambda: keras.saving.load_model(f"./{path}", compile=False, safe_mode=safe), ".keras file")
    network = getattr(model, "_functional", None) or model
    names, structure = getattr(network, "output_names", None), getattr(network, "_inputs_struct", None)
    if not names or structure is None:
        raise Refusal(
            FailureReason.INVALID_MODEL,
            "the model's inputs and outputs are not known before it is called; give it keras.Input layers, or export "
            "it as a SavedModel (model.export)",
        )
    inputs = _named_inputs(structure)
    outputs = _named_outputs(network)
    reasons = FailureReason.UNSUPPORTED_INPUT_TYPE, FailureReason.UNSUPPORTED_OUTPUT_TYPE
    signature = Signature(
        tuple(_keras_spec(name, each, "input", reasons[0]) for name, each in inputs.items()),
        tuple(_keras_spec(name, each, "output", reasons[1]) for name, each in outputs.items()),
    )

    def call(feeds: dict[str, Array]) -> dict[str, Any]:
        tensors = {name: tf.constant(rows, inputs[name].dtype) for name, rows in feeds.items()}
        fed: Any = tensors if isinstance(structure, dict) else list(tensors.values())
        answers = model(fed if len(tensors) > 1 or isinstance(structure, (dict, list, tuple)) else fed[0])
        given = answers if isinstance(answers, dict) else dict(zip(outputs, _listed(answers), strict=True))
        return dict(given)

    return _Opened(_runner(call, model), signature, frozenset(), producer)


def _named_inputs(structure: Any) -> dict[str, Any]:
    if isinstance(structure, dict):
        return dict(structure)
    return {each.name: each for each in _listed(structure)}


def _named_outputs(network: Any) -> dict[str, Any]:
    structure = getattr(network, "_outputs_struct", None)
    if isinstance(structure, dict):
        return dict(structure)
    return dict(zip(network.output_names, network.outputs, strict=True))


def _listed(structure: Any) -> list[Any]:
    return list(structure) if isinstance(structure, (list, tuple)) else [structure]


def _keras_spec(name: str, tensor: Any, kind: str, reason: FailureReason) -> TensorSpec:
    if not hasattr(tensor, "shape") or tensor.sparse or tensor.ragged:
        raise Refusal(reason, f"{kind} {_shown(name)} is nested, sparse or ragged; only dense tensors can be served")
    shape = tuple(-1 if size is None else int(size) for size in tensor.shape)
    return _spec(str(name), str(tensor.dtype), shape, kind, reason)


def _loaded(load: Callable[[], Any], kind: str) -> Any:
    try:
        return load()
    except Exception as error:  # noqa: BLE001  # whatever the two libraries raise, they do not load the model
        if _exhausted(error):
            raise out_of_memory(_sentence(error)) from None
        message = f"TensorFlow {tf.__version__} cannot load the {kind}: {_sentence(error)}"
        raise Refusal(FailureReason.INVALID_MODEL, message) from None


def _runner(call: Callable[[dict[str, Array]], dict[str, Any]], model: Any) -> Run:
    def run(feeds: dict[str, Array], _held: Any = model) -> dict[str, Array]:
        try:
            return {name: np.asarray(answer.numpy()) for name, answer in call(feeds).items()}
        except Exception as error:
            raise NotRunnable(_sentence(error), exhausted=_exhausted(error)) from error

    return run


def _exhausted(error: BaseException) -> bool:
    """Whether it began with a want of memory: Keras puts an error of its own in the place of what it meets."""
    chain: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in chain:
        chain.append(each)
        each = each.__cause__ or each.__context__
    return any(
        isinstance(each, (MemoryError, tf.errors.ResourceExhaustedError)) or "bad_alloc" in str(each) for each in chain
    )


def _sentence(error: Exception) -> str:
    """Say `error` in one bounded printable line, without places in the source or on the server."""
    text = _PLACE.sub("…", _NOISE.sub("", str(error)[:4_000]))
    return one_line(text, _SENTENCE_LENGTH) or type(error).__name__


def _shown(name: object) -> str:
    return repr(one_line(str(name), 200))
