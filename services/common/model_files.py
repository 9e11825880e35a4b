"""What a version's files are by their names alone: one rule for who validates them and for who fetches them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

# Where the one graph of several is, in this order. The inference service follows the same rule (its `onnx_runtime`).
PREFERRED_GRAPHS = ("model.onnx", "onnx/model.onnx")
# What runs code when it is opened, or is there to be run: nothing here opens it, and nobody else shall find it here.
_PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy", ".npz", ".mar"})
_CODE = frozenset({".py", ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".sh", ".exe", ".ipynb", ".whl", ".jar"})
_LEGACY = frozenset({".h5", ".hdf5", ".msgpack", ".ot"})


def main_graph(paths: Iterable[str]) -> str | None:
    """Choose the ONNX graph: the only `.onnx` file, else `model.onnx`, else `onnx/model.onnx`; None: none is it."""
    found = graphs(paths)
    if len(found) == 1:
        return found[0]
    return next((preferred for preferred in PREFERRED_GRAPHS if preferred in found), None)


def graphs(paths: Iterable[str]) -> list[str]:
    """List the ONNX graphs."""
    return sorted(path for path in paths if path.lower().endswith(".onnx"))


def unsafe_because(path: str) -> str:
    """Say why a Transformers bundle may not carry a file, as what the file is; '' where it may."""
    suffix = PurePosixPath(path.lower()).suffix
    if suffix in _PICKLES:
        return "may hold a pickle, which runs code when it is opened"
    if suffix in _CODE:
        return "is code"
    return "is a format that no server here reads" if suffix in _LEGACY else ""
