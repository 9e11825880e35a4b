"""Refuses models of TensorFlow.js by name: no converter is kept well enough to be trusted with them (ADR 6)."""

from __future__ import annotations

import json

from .files import Files
from .report import Failure, FailureReason, ValidationReport

_LARGEST_BYTES = 64 * 2**20
_KINDS = {"graph-model": "a graph model", "layers-model": "a layers model"}
_ADVICE = {
    "graph-model": (
        "register the SavedModel that it was converted from, or convert it to ONNX with tf2onnx (--tfjs) and register "
        "that"
    ),
    "layers-model": (
        "load it with tensorflowjs.converters.load_keras_model where it was made, save it as .keras, and register that"
    ),
}
_EITHER = "register the SavedModel or .keras file that it was converted from, or an ONNX export of it"


def inspect(files: Files, allowed: frozenset[str]) -> ValidationReport:  # noqa: ARG001  # no policy brings it in
    """Refuse the version, and say what to register in its place."""
    path = next(path for path in sorted(files) if path.rpartition("/")[2] == "model.json")
    kind = _format(files[path])
    message = (
        f"this is TensorFlow.js ({path!r} is {_KINDS.get(kind, 'its model file')}), which is not served; "
        f"{_ADVICE.get(kind, _EITHER)}"
    )
    return ValidationReport(failure=Failure(FailureReason.TFJS_UNSUPPORTED, message))


def _format(content: memoryview) -> str:
    if len(content) > _LARGEST_BYTES:
        return ""
    try:
        document = json.loads(bytes(content))
    except (ValueError, RecursionError):
        return ""
    return str(document.get("format", "")) if isinstance(document, dict) else ""
