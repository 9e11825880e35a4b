"""Judges a version of ONNX files: everything is mapped before the sandbox closes, and parsed only after it."""

from __future__ import annotations

import dataclasses
import gc

from .files import Files
from .layout import main_graph
from .onnx_graph import GraphFacts, read_graph
from .onnx_runtime import OnnxModel
from .report import Failure, FailureReason, Refusal, ValidationReport
from .trial import try_rows, with_seen_ranks

# A protobuf message, hence a graph without its tensors in files beside it, ends below 2 GiB.
_LARGEST_GRAPH_BYTES = 2**31 - 1
EXTRA_DOMAIN = "onnx-domain:"


def inspect(files: Files, allowed: frozenset[str]) -> ValidationReport:
    """Refuse the version, or report what it is and how it behaves. `allowed`: `onnx-domain:NAME` for more domains."""
    facts: GraphFacts | None = None
    try:
        graph = main_graph(files)
        facts, content, data = read(files, graph, allowed)
        return judge(OnnxModel(content, data), facts)
    except Refusal as refusal:
        return report_of(facts, failure=Failure(refusal.reason, refusal.message))


def read(files: Files, graph: str, allowed: frozenset[str]) -> tuple[GraphFacts, bytes, Files]:
    """Read the graph at the path `graph`: its facts, its bytes, and the files that keep its tensors, as it names them.

    Raises Refusal.
    """
    if len(files[graph]) > _LARGEST_GRAPH_BYTES:
        raise Refusal(
            FailureReason.INVALID_MODEL,
            f"the file {graph!r} has {len(files[graph]):,} bytes, and an ONNX graph holds {_LARGEST_GRAPH_BYTES:,} at "
            "most; save the model with its weights in files beside it (onnx.save with save_as_external_data)",
        )
    folder = graph.rpartition("/")[0]
    prefix = f"{folder}/" if folder else ""
    beside = {path.removeprefix(prefix): each for path, each in files.items() if path.startswith(prefix)}
    domains = frozenset(each.removeprefix(EXTRA_DOMAIN) for each in allowed if each.startswith(EXTRA_DOMAIN))
    content = bytes(files[graph])
    facts = read_graph(content, domains, {path: len(each) for path, each in beside.items() if path != graph})
    gc.collect()  # the parsed graph can be as large as the file, and the runtime parses its own
    return facts, content, {path: beside[path] for path in facts.data_files}


def judge(model: OnnxModel, facts: GraphFacts) -> ValidationReport:
    """Run the graph on generated rows, and report what it is; raises Refusal."""
    verdict = try_rows(model.run, model.signature, facts.unshaped_outputs)
    return dataclasses.replace(
        report_of(facts),
        signature=with_seen_ranks(model.signature, facts.unshaped_outputs, verdict),
        rows_independent=verdict.rows_independent,
        rows_independent_reason=verdict.reason,
    )


def report_of(facts: GraphFacts | None, failure: Failure | None = None) -> ValidationReport:
    """Begin a report with what the graph says of itself, where it was read."""
    if facts is None:
        return ValidationReport(failure=failure)
    return ValidationReport(
        failure=failure,
        opset=facts.opsets.get("ai.onnx", 0),
        opsets=facts.opsets,
        ir_version=facts.ir_version,
        producer=facts.producer,
    )
