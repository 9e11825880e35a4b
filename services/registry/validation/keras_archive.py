"""Reads a `.keras` archive as data, before Keras sees it. Imported by the child process alone."""

from __future__ import annotations

# Looked up by name, by zipfile and by Lambda layers, when it may be too late to import them.
import encodings.base64_codec
import encodings.cp437  # noqa: F401
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from .layout import shown
from .report import FailureReason, Refusal, one_line

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_MEMBERS = frozenset({_CONFIG, _METADATA, _WEIGHTS})
_LARGEST_JSON_BYTES = 64 * 2**20
_LARGEST_RATIO = 200
# What a configuration may name: layers and their parts. Not what downloads, loads, saves or configures.
_MODULE = re.compile(
    r"keras|keras(\.src)?\.(activations|constraints|dtype_policies|initializers|layers|losses|metrics|models|ops|"
    r"optimizers|quantizers|random|regularizers)(\.[a-z0-9][a-z0-9_]*)*"
)
# A value in the place of an object, made by Keras itself.
_VALUES = frozenset({"__keras_tensor__", "__tensor__", "__numpy__", "__bytes__", "__ellipsis__", "__slice__"})
_PYTHON_LAYERS = frozenset({"Lambda", "__lambda__"})
# Layers around another library's code, or around a model in another file.
_FOREIGN_LAYERS = frozenset({"TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"})
# Where a layer takes a list or the name of a file of the server.
_FILE_ARGUMENTS = ("vocabulary", "idf_weights", "filepath")


def read_archive(path: Path, *, lambdas_allowed: bool) -> str:
    """Check what may be refused without loading the model, and give the version of Keras that wrote it.

    Raises Refusal: NOT_KERAS, UNSAFE_FILE, FORBIDDEN_LAYER.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive.infolist())
            config, metadata = (_document(archive, name) for name in (_CONFIG, _METADATA))
            _check_config(config, lambdas_allowed=lambdas_allowed)
            _check_weights(archive.read(_WEIGHTS))
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError) as error:
        raise Refusal(
            FailureReason.NOT_KERAS,
            f"the .keras file cannot be read ({one_line(str(error), 200)}): it is another format, or was cut short or "
            "damaged; save the model again with Keras 3 (model.save('….keras'))",
        ) from None
    return one_line(f"keras {metadata.get('keras_version', '')}", 100)


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    names = [member.filename for member in members]
    others = sorted(set(names) - _MEMBERS)
    if others:
        raise Refusal(
            FailureReason.UNSAFE_FILE,
            f"the .keras file also holds {shown(others)}, which would be unpacked where it is served; a layer's "
            "vocabulary can be given as a list (vocabulary=layer.get_vocabulary()), then it is part of the "
            "configuration",
        )
    if len(names) != len(_MEMBERS):
        raise Refusal(FailureReason.NOT_KERAS, f"a .keras file holds {shown(sorted(_MEMBERS))}, each once")
    for member in members:
        largest = _LARGEST_JSON_BYTES if member.filename != _WEIGHTS else None
        inflated = member.file_size > _LARGEST_RATIO * max(member.compress_size, 1)
        if inflated or (largest is not None and member.file_size > largest):
            raise Refusal(
                FailureReason.UNSAFE_FILE,
                f"{member.filename!r} unpacks to {member.file_size:,} bytes from {member.compress_size:,}; at most "
                f"{_LARGEST_RATIO} times as many are unpacked, and {_LARGEST_JSON_BYTES:,} of JSON",
            )


def _document(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    try:
        document = json.loads(archive.read(name))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Refusal(FailureReason.NOT_KERAS, f"{name!r} in the .keras file is no JSON object; save the model again")
    return document


def _check_config(config: dict[str, Any], *, lambdas_allowed: bool) -> None:
    for each in _objects(config):
        if "class_name" in each:
            _check_class(each, lambdas_allowed=lambdas_allowed)
        for name in _FILE_ARGUMENTS:
            if isinstance(each.get(name), str):
                raise Refusal(
                    FailureReason.FORBIDDEN_LAYER,
                    f"a layer takes its {name} from the file {_shown(each[name])} of the server, which no model may; "
                    "give it as a list",
                )


def _check_class(found: dict[str, Any], *, lambdas_allowed: bool) -> None:
    name, module, registered = str(found["class_name"]), found.get("module"), found.get("registered_name")
    if name in _PYTHON_LAYERS:
        if lambdas_allowed:
            return
        raise Refusal(
            FailureReason.FORBIDDEN_LAYER,
            "the model has a Lambda layer, which is Python code that would run where it is served; write it with the "
            "layers and operations of Keras, or export the model as a SavedModel (model.export)",
        )
    if name in _VALUES:
        return
    if name == "function":
        known, shown_name = module in (None, "builtins") or _is_kerass(module), found.get("config")
    else:
        known, shown_name = _is_kerass(module) and name.isidentifier() and name not in _FOREIGN_LAYERS, name
    if not known or ">" in str(registered):
        raise Refusal(
            FailureReason.FORBIDDEN_LAYER,
            f"{_shown(shown_name)} (of {_shown(module)}) is none of the layers and functions of Keras that can be "
            "served from a .keras file; export the model as a SavedModel (model.export), which needs no code of its "
            "own",
        )


def _is_kerass(module: object) -> bool:
    return isinstance(module, str) and _MODULE.fullmatch(module) is not None


def _objects(config: dict[str, Any]) -> Iterator[dict[str, Any]]:
    waiting: list[Any] = [config]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
            waiting.extend(each.values())
        elif isinstance(each, list):
            waiting.extend(each)


def _check_weights(content: bytes) -> None:
    """Refuse a file of weights that would have others opened: links out of it, data kept elsewhere."""
    try:
        with h5py.File(io.BytesIO(content), "r") as weights:
            names: list[str] = []
            weights.visit_links(names.append)
            for name in names:
                link = weights.get(name, getlink=True)
                found = weights.get(name) if isinstance(link, h5py.HardLink) else None
                if found is None or (isinstance(found, h5py.Dataset) and (found.external or found.is_virtual)):
                    raise Refusal(
                        FailureReason.UNSAFE_FILE,
                        f"the weights point out of their own file (at {_shown(name)}); save the model again",
                    )
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise Refusal(
            FailureReason.NOT_KERAS,
            f"{_WEIGHTS!r} in the .keras file cannot be read ({one_line(str(error), 200)}); save the model again",
        ) from None


def _shown(name: object) -> str:
    return repr(one_line(str(name), 200))
