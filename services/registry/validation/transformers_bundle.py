"""Judges a Transformers bundle: tokenizer.json, config.json and an ONNX graph that takes what the tokenizer gives."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from tokenizers import Encoding, Tokenizer

from .files import Files
from .layout import main_graph, refuse_unsafe_files, shown
from .onnx_graph import GraphFacts
from .onnx_model import judge, read, report_of
from .onnx_runtime import OnnxModel
from .report import Failure, FailureReason, Refusal, Signature, TensorSpec, ValidationReport, one_line, out_of_memory
from .trial import Array, NotRunnable

_TOKENIZER, _CONFIG, _TOKENIZER_CONFIG = "tokenizer.json", "config.json", "tokenizer_config.json"
_LARGEST_BYTES = {_TOKENIZER: 128 * 2**20, _CONFIG: 4 * 2**20, _TOKENIZER_CONFIG: 16 * 2**20}
_IDS = "input_ids"
# What a graph may ask for, and where a tokenizer's encoding has it.
_INPUTS: dict[str, Callable[[Encoding], Sequence[int]]] = {
    _IDS: lambda encoding: encoding.ids,
    "attention_mask": lambda encoding: encoding.attention_mask,
    "token_type_ids": lambda encoding: encoding.type_ids,
    "position_ids": lambda encoding: range(len(encoding.ids)),
}
_INTEGERS: dict[str, np.dtype[Any]] = {"INT32": np.dtype(np.int32), "INT64": np.dtype(np.int64)}
_SAMPLE = "A penstock is the gated pipe that feeds a turbine."


def inspect(files: Files, allowed: frozenset[str]) -> ValidationReport:
    """Refuse the bundle, or report its graph. `allowed` as for ONNX alone."""
    facts: GraphFacts | None = None
    try:
        refuse_unsafe_files(files)
        graph = _graph(files)
        config = _document(files, _CONFIG)
        if _TOKENIZER_CONFIG in files:
            _document(files, _TOKENIZER_CONFIG)
        tokenizer = _tokenizer(files)
        facts, content, data = read(files, graph, allowed)
        model = OnnxModel(content, data)
        _check_inputs(model.signature)
        _check_ids(tokenizer, facts, config)
        _run_sample(tokenizer, model)
        return judge(model, facts)
    except Refusal as refusal:
        return dataclasses.replace(report_of(facts), failure=Failure(refusal.reason, refusal.message))


def _graph(files: Files) -> str:
    weights = sorted(path for path in files if path.lower().endswith(".safetensors"))
    if weights and not any(path.lower().endswith(".onnx") for path in files):
        raise Refusal(
            FailureReason.INVALID_LAYOUT,
            f"the bundle has weights ({shown(weights)}) and no ONNX graph to run them in; export one (optimum-cli "
            "export onnx) and register it with tokenizer.json and config.json",
        )
    return main_graph(files)


def _document(files: Files, name: str) -> dict[str, Any]:
    content = _content(files, name)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Refusal(FailureReason.INVALID_LAYOUT, f"{name} is no JSON object; take it from the model as it was saved")
    return document


def _content(files: Files, name: str) -> bytes:
    if name not in files:
        raise Refusal(
            FailureReason.INVALID_LAYOUT,
            f"the bundle has no {name} on top; it needs {_TOKENIZER}, {_CONFIG} and the ONNX graph "
            "(tokenizer.save_pretrained and model.save_pretrained write the first two)",
        )
    if len(files[name]) > _LARGEST_BYTES[name]:
        raise Refusal(
            FailureReason.INVALID_LAYOUT,
            f"{name} has {len(files[name]):,} bytes, and {_LARGEST_BYTES[name]:,} are read at most",
        )
    return bytes(files[name])


def _tokenizer(files: Files) -> Tokenizer:
    content = _content(files, _TOKENIZER)
    with _any_fault_as("cannot be opened"):
        return Tokenizer.from_buffer(content)


@contextmanager
def _any_fault_as(said: str) -> Iterator[None]:
    """Refuse the tokenizer for what its library raises: nothing special, or a panic of Rust, no `Exception` even."""
    try:
        yield
    except (Refusal, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # noqa: BLE001
        raise Refusal(
            FailureReason.INVALID_TOKENIZER,
            f"{_TOKENIZER} {said} ({one_line(str(error), 200)}); save it with a fast tokenizer",
        ) from None


def _check_inputs(signature: Signature) -> None:
    names = [spec.name for spec in signature.inputs]
    for spec in signature.inputs:
        if _IDS not in names or spec.name not in _INPUTS or spec.datatype not in _INTEGERS or len(spec.shape) != 2:
            raise Refusal(
                FailureReason.TOKENIZER_MISMATCH,
                f"the graph takes {', '.join(map(_described, signature.inputs))}; a tokenizer gives "
                f"{', '.join(_INPUTS)}, as integers of shape [-1, -1], of which {_IDS} must be there",
            )


def _described(spec: TensorSpec) -> str:
    return f"{spec.name!r} ({spec.datatype} {list(spec.shape)})"


def _check_ids(tokenizer: Tokenizer, facts: GraphFacts, config: dict[str, Any]) -> None:
    """Refuse a tokenizer with ids beyond the model's table, where the table can be seen."""
    with _any_fault_as("has no vocabulary that can be read"):
        highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    declared = config.get("vocab_size")
    limits = {"the graph's table of tokens": facts.table_rows.get(_IDS), f"vocab_size in {_CONFIG}": declared}
    for where, rows in limits.items():
        if isinstance(rows, int) and highest >= rows:
            raise Refusal(
                FailureReason.TOKENIZER_MISMATCH,
                f"{_TOKENIZER} has a token of number {highest:,}, and {where} has {rows:,}; tokenizer and graph belong "
                "to different models",
            )


def _run_sample(tokenizer: Tokenizer, model: OnnxModel) -> None:
    with _any_fault_as("fails on an English sentence"):
        encoding = tokenizer.encode(_SAMPLE)
    if not encoding.ids:
        raise Refusal(FailureReason.INVALID_TOKENIZER, f"{_TOKENIZER} makes no token of an English sentence")
    try:
        model.run({spec.name: _row(spec, encoding) for spec in model.signature.inputs})
    except NotRunnable as error:
        if error.exhausted:
            raise out_of_memory(str(error)) from None
        raise Refusal(
            FailureReason.TOKENIZER_MISMATCH, f"the graph does not take what {_TOKENIZER} gives: {error}"
        ) from None


def _row(spec: TensorSpec, encoding: Encoding) -> Array:
    """Give one row, cut or filled with zeros where the graph fixes its length."""
    values = np.asarray(_INPUTS[spec.name](encoding), _INTEGERS[spec.datatype])
    length = spec.shape[1] if spec.shape[1] >= 0 else len(values)
    rows = max(spec.shape[0], 1)
    filled = np.zeros((rows, length), values.dtype)
    filled[:, : len(values)] = values[:length]
    return filled
