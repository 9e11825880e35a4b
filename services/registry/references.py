"""Versions without files: references to models that another server keeps; and frameworks that are not taken."""

from __future__ import annotations

from collections.abc import Mapping

from services.common.errors import InvalidArgument
from services.registry.audit import REGISTRY
from services.registry.auditing import version_changed
from services.registry.models import Framework, Model, ModelVersion, NewVersion, Signature, TensorSpec
from services.registry.ollama import OllamaMode
from services.registry.promotions import climb
from services.registry.store import Tables

_TEXTS = (-1,)
_SIGNATURES: Mapping[OllamaMode, Signature] = {
    OllamaMode.CHAT: Signature((TensorSpec("messages", "BYTES", _TEXTS),), (TensorSpec("response", "BYTES", _TEXTS),)),
    OllamaMode.GENERATE: Signature(
        (TensorSpec("prompt", "BYTES", _TEXTS),), (TensorSpec("response", "BYTES", _TEXTS),)
    ),
    OllamaMode.EMBED: Signature((TensorSpec("text", "BYTES", _TEXTS),), (TensorSpec("embedding", "FP32", (-1, -1)),)),
}


def is_reference(new: NewVersion) -> bool:
    """Say whether a version brings no files, for another server keeps the model."""
    return new.framework is Framework.OLLAMA


def reference_signature(mode: OllamaMode) -> Signature:
    """Give what a reference takes and gives; see OllamaMode in registry.proto."""
    return _SIGNATURES[mode]


def check_framework(new: NewVersion) -> None:
    """Let a registration pass that says what its framework needs.

    Raises:
        InvalidArgument: TensorFlow.js, which is converted first (UNSUPPORTED_FRAMEWORK); OLLAMA without a reference,
            another framework with one, or a declared signature for a reference (INVALID_REFERENCE).
    """
    if new.framework is Framework.TENSORFLOWJS:
        raise InvalidArgument.field(
            "framework",
            "got TENSORFLOWJS, which is not served: register the SavedModel or .keras file that it was converted from; "
            "where that is lost, convert a graph model to ONNX with tf2onnx (--tfjs), or save a layers model as .keras "
            "after tensorflowjs.converters.load_keras_model, and register that",
            reason="UNSUPPORTED_FRAMEWORK",
        )
    if is_reference(new) and new.ollama is None:
        raise InvalidArgument.field(
            "ollama", "not given; an OLLAMA version says which model answers, and how", reason="INVALID_REFERENCE"
        )
    if not is_reference(new) and new.ollama is not None:
        raise InvalidArgument.field(
            "ollama", f"goes with OLLAMA only, and the framework is {new.framework}", reason="INVALID_REFERENCE"
        )
    if is_reference(new) and new.declared_signature is not None:
        raise InvalidArgument.field(
            "declared_signature", "a reference has the signature of its mode; leave it out", reason="INVALID_REFERENCE"
        )


def refuse_files(path: str) -> InvalidArgument:
    """Make the error for a file that came with a reference."""
    return InvalidArgument.field(
        "file", f"{path!r} came; a reference brings no files, for its server keeps them", reason="FILES_NOT_ALLOWED"
    )


def become_ready(tables: Tables, model: Model, version: ModelVersion) -> None:
    """Make a new reference READY, and move it to the stage that its registration asked for; the model is locked.

    As where a validator does it, the registry is who did it.
    """
    if version.ollama is not None:
        tables.versions.set_ready(version.version_id, reference_signature(version.ollama.mode), None)
        climb(tables, model, tables.versions.get_by_id(version.version_id))
        version_changed(tables, "Validate", version, tables.versions.get_by_id(version.version_id), actor=REGISTRY)
