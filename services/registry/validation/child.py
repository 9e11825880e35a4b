"""The process that opens one untrusted ONNX file: `… child SETTINGS < model > report`, both of them JSON.

Everything is imported before the sandbox closes, and the file is parsed only after that. The answer is one
`ValidationReport`; a crash is no answer, and the parent says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import locale
import os
import re
import sys
from collections.abc import Callable

# Read by OpenBLAS when NumPy is imported, which the next lines do: one thread.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from .graph import GraphFacts, read_graph
from .report import Failure, FailureReason, Refusal, Signature, TensorSpec, ValidationReport
from .runtime import open_session, read_signature
from .sandbox import SandboxLimits, enter
from .trial import Verdict, try_rows


def inspect(content: bytes, extra_domains: frozenset[str]) -> ValidationReport:
    """Judge the ONNX file `content`: refuse it, or report what it is and how it behaves."""
    facts: GraphFacts | None = None
    try:
        facts = read_graph(content, extra_domains)
        gc.collect()  # the parsed graph can be as large as the file, and the runtime parses its own
        return _judge(content, facts)
    except Refusal as refusal:
        return _report(facts, failure=Failure(refusal.reason, refusal.message))
    except MemoryError:
        message = "the model asked for more memory than validation allows (the limit grows with the file's size)"
        return _report(facts, failure=Failure(FailureReason.VALIDATOR_OUT_OF_MEMORY, message))


def _judge(content: bytes, facts: GraphFacts) -> ValidationReport:
    session = open_session(content)
    signature = read_signature(session)
    verdict = try_rows(session, signature, facts.unshaped_outputs)
    return dataclasses.replace(
        _report(facts),
        signature=_with_seen_ranks(signature, facts.unshaped_outputs, verdict),
        rows_independent=verdict.rows_independent,
        rows_independent_reason=verdict.reason,
    )


def _report(facts: GraphFacts | None, failure: Failure | None = None) -> ValidationReport:
    if facts is None:
        return ValidationReport(failure=failure)
    return ValidationReport(
        failure=failure,
        opset=facts.opsets.get("ai.onnx", 0),
        opsets=facts.opsets,
        ir_version=facts.ir_version,
        producer=facts.producer,
    )


def _with_seen_ranks(signature: Signature, unshaped: frozenset[str], verdict: Verdict) -> Signature:
    """Where neither file nor runtime knows an output's shape, take the rank that it had when it ran."""

    def seen(spec: TensorSpec) -> TensorSpec:
        if spec.name not in unshaped or spec.shape:
            return spec
        rank = verdict.ranks.get(spec.name)
        if rank is None:
            message = f"output {spec.name!r} declares no shape, and none could be seen: {verdict.reason}"
            raise Refusal(FailureReason.INVALID_MODEL, message)
        return dataclasses.replace(spec, shape=(-1,) * rank)

    return dataclasses.replace(signature, outputs=tuple(seen(spec) for spec in signature.outputs))


def _peak_memory() -> Callable[[], int]:
    """Open what tells the peak resident size while files can still be opened; 0 where the system has no /proc."""
    try:
        # Not getrusage: its maximum starts from the size of the process that started us.
        status = os.open("/proc/self/status", os.O_RDONLY)
    except FileNotFoundError:
        return lambda: 0

    def peak_memory_bytes() -> int:
        found = re.search(rb"VmHWM:\s+(\d+) kB", os.pread(status, 8192, 0))
        return int(found[1]) * 1024 if found else 0

    return peak_memory_bytes


def main() -> None:
    """Read settings and file, close the sandbox, inspect, answer, and leave without clean-up."""
    settings = json.loads(sys.argv[1])
    content = sys.stdin.buffer.read()
    # The runtime's text operators load this locale from a file, later than files can be opened.
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_ALL, "en_US.UTF-8")
    # The answer has the pipe to itself: what a library prints goes to stderr.
    answer = os.dup(1)
    os.dup2(2, 1)
    peak_memory_bytes = _peak_memory()
    limits = SandboxLimits(settings["memory_limit_bytes"], settings["cpu_limit_s"])
    sandbox = enter(limits, settings["parent_pid"])
    report = inspect(content, frozenset(settings["extra_domains"]))
    report = dataclasses.replace(report, sandbox=sandbox, peak_memory_bytes=peak_memory_bytes())
    remaining = memoryview(json.dumps(dataclasses.asdict(report)).encode())
    while remaining:
        remaining = remaining[os.write(answer, remaining) :]
    # The runtime's destructors have met a hostile file: the kernel cleans up after us.
    os._exit(0)


if __name__ == "__main__":
    main()
