"""Finds the model among a version's files by their names alone, before any of them is read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from services.common import model_files

from .report import FailureReason, Refusal, one_line

_SHOWN_FILES, _SHOWN_NAME_LENGTH = 8, 200


def main_graph(paths: Iterable[str]) -> str:
    """Choose the ONNX graph: the only `.onnx` file, else `model.onnx`, else `onnx/model.onnx`.

    Raises Refusal: INVALID_LAYOUT, with the candidates.
    """
    graphs = model_files.graphs(paths)
    if (chosen := model_files.main_graph(graphs)) is not None:
        return chosen
    found = f"these are there: {shown(graphs)}" if graphs else "none is there"
    raise Refusal(
        FailureReason.INVALID_LAYOUT,
        "a version with an ONNX graph holds one .onnx file, or several of which one is model.onnx or "
        f"onnx/model.onnx; {found}",
    )


def saved_model_folder(paths: Iterable[str]) -> str | None:
    """Find a SavedModel: "" where its `saved_model.pb` lies on top, else the one top folder that has it; or None."""
    paths = list(paths)
    if "saved_model.pb" in paths:
        return ""
    tops = {path.partition("/")[0] for path in paths}
    if len(tops) == 1 and f"{(top := tops.pop())}/saved_model.pb" in paths:
        return top
    return None


def tensorflow_model(paths: Iterable[str]) -> tuple[str | None, str]:
    """Find the one model of TensorFlow: the folder of a SavedModel and "", or None and the path of a `.keras` file.

    Raises Refusal: INVALID_LAYOUT, with what is there.
    """
    paths = sorted(paths)
    folder = saved_model_folder(paths)
    archives = [path for path in paths if path.lower().endswith(".keras")]
    if (folder is not None) + len(archives) != 1:
        raise Refusal(
            FailureReason.INVALID_LAYOUT,
            "a version of TensorFlow holds one SavedModel (saved_model.pb on top, or in the one top folder) or one "
            f".keras file; these are there: {shown(paths)}",
        )
    return folder, archives[0] if archives else ""


def is_tensorflow_js(paths: Iterable[str]) -> bool:
    """Whether this looks like TensorFlow.js: a `model.json` and nothing that any other framework would open."""
    names = [PurePosixPath(path) for path in paths]
    others = {".onnx", ".keras", ".pb"}
    return any(name.name == "model.json" for name in names) and not any(name.suffix in others for name in names)


def refuse_unsafe_files(paths: Iterable[str]) -> None:
    """Refuse a bundle that carries pickles or code; raises Refusal: UNSAFE_FILE."""
    for path in sorted(paths):
        kind = model_files.unsafe_because(path)
        if kind:
            raise Refusal(
                FailureReason.UNSAFE_FILE,
                f"the file {shown([path])} {kind}; leave it out: the bundle needs tokenizer.json, config.json and the "
                "ONNX graph",
            )


def shown(names: Iterable[str]) -> str:
    """List names from an upload in a message, the first few of them."""
    listed = list(names)
    text = ", ".join(repr(one_line(name, _SHOWN_NAME_LENGTH)) for name in listed[:_SHOWN_FILES])
    return f"{text} and {len(listed) - _SHOWN_FILES} more" if len(listed) > _SHOWN_FILES else text
