"""The validator against real hostile files and against children that misbehave in every way we know."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services.registry.validation.report import FailureReason, ValidationReport
from services.registry.validation.validator import ValidationLimits, Validator
from tests.testdata import models
from tests.testdata.bundles import bundle

pytestmark = pytest.mark.slow

TIMEOUT = FailureReason.VALIDATOR_TIMEOUT
ON_LINUX = sys.platform.startswith("linux")


@pytest.fixture
def model_path(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder / "model.onnx"


def validated(path: Path, content: bytes, *, timeout_s: float = 30.0) -> ValidationReport:
    path.write_bytes(content)
    return Validator(ValidationLimits(timeout_s=timeout_s), require_sandbox=ON_LINUX).validate(path.parent, "onnx")


def answered(
    child: str, path: Path, content: str = "", *, framework: str = "onnx", timeout_s: float = 30.0
) -> ValidationReport:
    path.write_text(content)
    limits = ValidationLimits(timeout_s=timeout_s)
    return Validator(limits, child=f"tests.testdata.children.{child}").validate(path.parent, framework)


def reason(report: ValidationReport) -> FailureReason:
    assert report.failure is not None
    return report.failure.reason


def message(report: ValidationReport) -> str:
    assert report.failure is not None
    return report.failure.message


def test_a_good_model_passes_and_the_report_says_what_it_took(model_path: Path) -> None:
    report = validated(model_path, models.linear())
    assert report.ok
    assert report.signature is not None
    assert [spec.name for spec in report.signature.inputs] == ["x"]
    assert report.rows_independent
    assert report.duration_ms > 0
    assert report.diagnostics == ""
    if ON_LINUX:
        assert 2**24 < report.peak_memory_bytes < 2**30
        assert {"limit:memory", "limit:descriptors", "limit:processes", "no-new-privileges"} <= set(report.sandbox)
        assert "seccomp" in report.sandbox


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (models.truncated(), FailureReason.NOT_ONNX),
        (models.external_data(), FailureReason.EXTERNAL_DATA_INVALID),
        (models.gigantic(), FailureReason.VALIDATOR_OUT_OF_MEMORY),
    ],
    ids=["truncated", "external data", "gigantic"],
)
def test_a_refusal_crosses_the_process_boundary(model_path: Path, content: bytes, expected: FailureReason) -> None:
    assert reason(validated(model_path, content)) is expected


@pytest.mark.parametrize("content", [models.strings(), models.embedding(), models.zipmap_classifier()])
def test_operators_work_inside_the_sandbox_as_outside(model_path: Path, content: bytes) -> None:
    report = validated(model_path, content)
    assert report.ok or reason(report) is FailureReason.UNSUPPORTED_OUTPUT_TYPE
    assert report.opset == 21


def test_a_bundle_opens_in_the_sandbox_of_those_that_only_compute(model_path: Path) -> None:
    for path, content in bundle().items():
        (model_path.parent / path).write_bytes(content)
    report = Validator(require_sandbox=ON_LINUX).validate(model_path.parent, "transformers")
    assert report.ok, report
    assert "limit:processes" in report.sandbox or not ON_LINUX


def test_a_graph_with_data_beside_it_opens_without_opening_a_file(model_path: Path) -> None:
    (model_path.parent / "weights.data").write_bytes(bytes(16))
    report = validated(model_path, models.external_data("weights.data", length=16))
    assert report.ok, report
    assert "limit:descriptors" in report.sandbox or not ON_LINUX


def test_tensorflow_js_is_refused_without_tensorflow(model_path: Path) -> None:
    (model_path.parent / "model.json").write_text('{"format": "layers-model"}')
    report = Validator().validate(model_path.parent, "tensorflow")
    assert reason(report) is FailureReason.TFJS_UNSUPPORTED
    assert report.peak_memory_bytes < 2**27


def test_a_model_that_crashes_the_runtime_crashes_its_child_only(model_path: Path) -> None:
    report = validated(model_path, models.crashing())
    assert reason(report) is FailureReason.VALIDATOR_CRASHED
    assert "SIGFPE" in message(report)


def test_a_model_that_never_ends_is_stopped_at_the_time_limit(model_path: Path) -> None:
    report = validated(model_path, models.unending(), timeout_s=2)
    assert reason(report) is TIMEOUT
    assert "within 2 s" in message(report)


def test_a_graph_too_large_for_the_format_is_refused_unread(model_path: Path) -> None:
    with model_path.open("wb") as file:
        file.truncate(2**31)
    report = Validator().validate(model_path.parent, "onnx")
    assert reason(report) is FailureReason.INVALID_MODEL
    assert "2,147,483,648 bytes" in message(report)
    assert "save_as_external_data" in message(report)


def test_another_framework_is_refused(model_path: Path) -> None:
    assert reason(Validator().validate(model_path.parent, "pickle")) is FailureReason.UNSUPPORTED_FRAMEWORK


def test_a_segmentation_fault_is_named(model_path: Path) -> None:
    report = answered("segfaults", model_path)
    assert reason(report) is FailureReason.VALIDATOR_CRASHED
    assert "SIGSEGV" in message(report)


def test_an_uncaught_allocation_failure_is_told_from_a_crash(model_path: Path) -> None:
    assert reason(answered("aborts_for_memory", model_path)) is FailureReason.VALIDATOR_OUT_OF_MEMORY


def test_a_child_that_hangs_is_killed(model_path: Path) -> None:
    assert reason(answered("hangs", model_path, timeout_s=1)) is TIMEOUT


@pytest.mark.skipif(not ON_LINUX, reason="other systems do not enforce a limit on processor time alike")
def test_processor_time_is_limited_beside_the_clock(model_path: Path) -> None:
    report = answered("spins", model_path)
    assert reason(report) is TIMEOUT
    assert "processor time" in message(report)


def test_a_process_that_a_child_left_behind_is_killed_with_it(model_path: Path, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    for timeout_s in (2, 10, 50):  # so long as the child has not got that far
        assert reason(answered("forks", model_path, str(pid_file), timeout_s=timeout_s)) is TIMEOUT
        if pid_file.exists():
            break
    pid = int(pid_file.read_text())
    deadline = time.monotonic() + 60
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} outlived its validation"
        time.sleep(0.01)


def test_a_flood_of_output_is_cut_off(model_path: Path) -> None:
    report = answered("floods", model_path)
    assert reason(report) is FailureReason.VALIDATOR_CRASHED
    assert "more than 1,048,576 bytes" in message(report)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"opset": "21"}',
        '{"rows_independent": 1}',
        '{"producer": "a\\u0000b"}',
        '{"sandbox": "all"}',
    ],
)
def test_an_answer_that_is_no_report_is_not_believed(model_path: Path, answer: str) -> None:
    report = answered("rambles", model_path, answer)
    assert reason(report) is FailureReason.VALIDATOR_CRASHED
    assert "without a report" in message(report)


@pytest.mark.parametrize("framework", ["onnx", "tensorflow"])
def test_the_sandbox_leaves_nothing_but_computing(model_path: Path, tmp_path: Path, framework: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("keep me")
    victim.chmod(0o644)
    tmp_path.chmod(0o755)
    report = answered("snoops", model_path, str(victim), framework=framework)
    assert report.ok, report
    outcomes = json.loads(report.diagnostics)
    done = {attempt for attempt, outcome in outcomes.items() if outcome == "done"}
    if framework == "tensorflow":
        assert {"seccomp", "landlock"} <= set(report.sandbox) or not ON_LINUX
        # Such a runtime reads what it was given and has threads; that a path exists is no secret to it.
        expected = {"read what it was given", "start a thread", "look at a path"}
        assert done <= expected
        assert {"read what it was given", "start a thread"} <= done
    else:
        if "seccomp" not in report.sandbox:
            done -= {"look at a path", "delete a file", "signal its parent", "trace", "link to a file"}
        assert done == set()
    assert victim.read_text() == "keep me"
    if ON_LINUX and os.geteuid() == 0:
        assert "uid:65534" in report.sandbox


def test_the_parent_imports_no_runtime() -> None:
    script = (
        "import sys, services.registry.validation.validator; "
        "print(sorted({'onnx', 'onnxruntime', 'numpy', 'google.protobuf'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout == "[]\n"


def is_running(pid: int) -> bool:
    """Whether a process lives; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        pass
    if ON_LINUX:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
