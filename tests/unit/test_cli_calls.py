"""The commands that call a service, against a real server in this process whose answers are scripted."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from penstock.api.inference.v1 import inference_pb2 as inference
from penstock.api.inference.v1 import inference_pb2_grpc
from penstock.api.monitoring.v1 import monitoring_pb2 as monitoring
from penstock.api.monitoring.v1 import monitoring_pb2_grpc
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.api.registry.v1 import registry_pb2_grpc
from penstock.cli.__main__ import run
from penstock.tensors import to_tensor
from services.common import errors
from services.common.status import DETAILS_KEY, code_of, details_of

ID = "01934a1e-7c00-7000-8000-000000000001"
SERVICES = {"REGISTRY", "INFERENCE", "MONITORING"}


class Script:
    """What each RPC answers (a message, several, an error, or a function of the request), and what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[Any] = []
        self.metadata: list[dict[str, Any]] = []

    def respond(self, name: str, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer one call."""
        request = list(request) if isinstance(request, Iterator) else request
        self.asked.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        answer = self.answers[name]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, errors.DomainError):
            context.set_trailing_metadata(((DETAILS_KEY, details_of(answer)),))
            context.abort(code_of(answer), answer.message)
        return iter(answer) if isinstance(answer, list) else answer

    def servicer(self, base: type) -> Any:
        """Make a servicer of all a service's RPCs."""

        def method(name: str) -> Callable[[Any, Any, grpc.ServicerContext], Any]:
            return lambda _, request, context: self.respond(name, request, context)

        return type("Scripted", (base,), {name: method(name) for name in vars(base) if not name.startswith("_")})()


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Script]:
    """Serve all three services on one port, which the environment names."""
    script = Script()
    server = grpc.server(ThreadPoolExecutor(4))
    registry_pb2_grpc.add_RegistryServiceServicer_to_server(
        script.servicer(registry_pb2_grpc.RegistryServiceServicer), server
    )
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(
        script.servicer(inference_pb2_grpc.InferenceServiceServicer), server
    )
    monitoring_pb2_grpc.add_MonitoringServiceServicer_to_server(
        script.servicer(monitoring_pb2_grpc.MonitoringServiceServicer), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PENSTOCK_TOKEN", raising=False)
    for service in SERVICES:
        monkeypatch.setenv(f"PENSTOCK_{service}_ADDRESS", f"127.0.0.1:{port}")
    yield script
    server.stop(None).wait()


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command that must succeed, and read its document."""

    def read(*arguments: str) -> Any:
        capsys.readouterr()
        assert run([*arguments, "--json"]) == 0
        printed = capsys.readouterr()
        assert printed.err == ""
        return json.loads(printed.out)

    return read


def version_in(stage: registry.Stage.ValueType, **more: Any) -> registry.ModelVersion:
    return registry.ModelVersion(
        model="iris", version="2.0.0", deployment_number=2, stage=stage, state=registry.VERSION_STATE_READY, **more
    )


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.FailedPrecondition("no", reason="STAGE_MOVE_FORBIDDEN"), 1),
        (errors.Aborted("no", reason="CONCURRENT_PROMOTION"), 1),
        (errors.InvalidArgument("no", reason="INVALID_NAME"), 1),
        (errors.NotFound("no", reason="MODEL_NOT_FOUND"), 3),
        (errors.AlreadyExists("no", reason="MODEL_EXISTS"), 4),
        (errors.Unauthenticated("no", reason="EXPIRED_KEY"), 5),
        (errors.PermissionDenied("no", reason="ROLE_TOO_WEAK"), 5),
        (errors.DeadlineExceeded("no", reason="TOO_LATE"), 6),
    ],
)
def test_a_refusal_is_one_sentence_with_its_reason_and_an_exit_code(
    script: Script, capsys: pytest.CaptureFixture[str], error: errors.DomainError, exit_code: int
) -> None:
    script.answers["GetModel"] = error
    error.retryable = False
    assert run(["model", "get", "iris"]) == exit_code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"penstock: no [{error.reason}]\n"


def test_where_a_service_speaks_of_its_protocol_the_command_says_which_option_helps(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    script.answers["GetModel"] = errors.Unauthenticated("no API key came", reason="MISSING_KEY")
    assert run(["model", "get", "iris"]) == 5
    assert capsys.readouterr().err == "penstock: no API key came; give --token, or set PENSTOCK_TOKEN [MISSING_KEY]\n"


def test_a_service_that_is_not_there_is_unavailable(
    script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["model", "list", "--url", "127.0.0.1:1"]) == 6
    assert capsys.readouterr().err.count("\n") == 1


def test_a_named_folder_on_which_nothing_runs_is_no_reason_to_talk_to_another_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PENSTOCK_REGISTRY_ADDRESS", raising=False)
    monkeypatch.setenv("PENSTOCK_DATA_DIR", str(tmp_path / "other"))
    assert run(["model", "list"]) == 6
    assert "[NOT_RUNNING]" in capsys.readouterr().err


def test_a_traceback_comes_only_when_asked_for(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    script.answers["GetModel"] = errors.NotFound("no", reason="MODEL_NOT_FOUND")
    monkeypatch.setenv("PENSTOCK_DEBUG", "1")
    with pytest.raises(Exception, match="no"):
        run(["model", "get", "iris"])


def test_the_key_goes_along_flag_over_environment(
    script: Script, monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any]
) -> None:
    script.answers["ListModels"] = registry.ListModelsResponse()
    monkeypatch.setenv("PENSTOCK_TOKEN", "pk_environment")
    assert answer("model", "list") == []
    assert answer("model", "list", "--token", "pk_flag") == []
    assert [each["authorization"] for each in script.metadata] == ["Bearer pk_environment", "Bearer pk_flag"]


def test_lists_go_on_to_the_next_page_and_stop_at_the_limit(script: Script, answer: Callable[..., Any]) -> None:
    def page(request: registry.ListModelsRequest) -> registry.ListModelsResponse:
        first = int(request.page_token or 0)
        models = [registry.Model(name=f"m{number}") for number in range(first, first + 2)]
        return registry.ListModelsResponse(models=models, next_page_token=str(first + 2))

    script.answers["ListModels"] = page
    assert [model["name"] for model in answer("model", "list", "--limit", "5")] == ["m0", "m1", "m2", "m3", "m4"]


def test_register_uploads_the_file_and_waits_until_it_is_validated(
    script: Script, answer: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "iris.onnx"
    path.write_bytes(b"x" * 3_000_000)
    states = iter([registry.VERSION_STATE_VALIDATING, registry.VERSION_STATE_READY])
    script.answers["RegisterVersion"] = registry.RegisterVersionResponse(
        version=registry.ModelVersion(state=registry.VERSION_STATE_VALIDATING)
    )
    script.answers["GetVersion"] = lambda _: registry.GetVersionResponse(
        version=registry.ModelVersion(model="iris", version="1.0.0", state=next(states))
    )
    document = answer(
        *("model", "register", "iris", str(path), "--version", "1.0.0"),
        *("--columns", "a, b", "--tag", "x", "--tag", "y", "--stage", "candidate"),
    )
    assert document["state"] == "ready"
    header, file, *chunks = script.asked[0]
    assert (header.header.model, header.header.version) == ("iris", "1.0.0")
    assert header.header.framework == registry.FRAMEWORK_ONNX
    assert header.header.stage == registry.STAGE_CANDIDATE
    assert header.header.approved_by != ""
    assert list(header.header.metadata.tags) == ["x", "y"]
    assert list(header.header.declared_signature.inputs[0].columns) == ["a", "b"]
    assert file.file.sha256 == sha256(path.read_bytes()).hexdigest()
    assert b"".join(part.chunk for part in chunks) == path.read_bytes()


def test_a_version_that_fails_validation_fails_the_command(
    script: Script, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "iris.onnx"
    path.write_bytes(b"x")
    failed = registry.ModelVersion(
        model="iris",
        version="1",
        state=registry.VERSION_STATE_FAILED,
        failure_reason="NOT_ONNX",
        failure_message="it is no ONNX file",
    )
    script.answers["RegisterVersion"] = registry.RegisterVersionResponse(version=failed)
    script.answers["GetVersion"] = registry.GetVersionResponse(version=failed)
    assert run(["model", "register", "iris", str(path), "--version", "1"]) == 1
    assert "it is no ONNX file [NOT_ONNX]" in capsys.readouterr().err


def test_register_of_a_missing_file_is_a_usage_error(script: Script) -> None:
    assert run(["model", "register", "iris", "missing.onnx", "--version", "1"]) == 2
    assert script.asked == []


class Ladder:
    """A version that climbs, as the registry would let it."""

    def __init__(self, script: Script, stage: registry.Stage.ValueType, stops_at: int = 99) -> None:
        self.stage = stage
        self.stops_at = stops_at
        script.answers["GetVersion"] = lambda _: registry.GetVersionResponse(version=version_in(self.stage))
        script.answers["PromoteVersion"] = self.climb

    def climb(self, request: registry.PromoteVersionRequest) -> Any:
        if request.to_stage >= self.stops_at:
            return errors.PermissionDenied("your role is too weak", reason="ROLE_TOO_WEAK")
        self.stage = request.to_stage or registry.Stage.ValueType(self.stage + 1)
        live = self.stage == registry.STAGE_PRODUCTION
        return registry.PromoteVersionResponse(
            version=version_in(self.stage), replaced=registry.ModelVersion(version="1.0.0") if live else None
        )


def test_promote_to_production_climbs_step_by_step(script: Script, answer: Callable[..., Any]) -> None:
    Ladder(script, registry.STAGE_DEVELOPMENT)
    document = answer("model", "promote", "iris", "2.0.0", "--to", "production", "--note", "good", "--approver", "ada")
    assert document["moves"] == [
        {"from_stage": "development", "to_stage": "candidate"},
        {"from_stage": "candidate", "to_stage": "staging"},
        {"from_stage": "staging", "to_stage": "production", "replaced": "1.0.0"},
    ]
    assert document["version"]["stage"] == "production"
    asked = [request for request in script.asked if isinstance(request, registry.PromoteVersionRequest)]
    assert {(request.approved_by, request.note) for request in asked} == {("ada", "good")}


def test_promote_that_fails_half_way_says_how_far_it_came(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    Ladder(script, registry.STAGE_CANDIDATE, stops_at=registry.STAGE_PRODUCTION)
    assert run(["model", "promote", "iris", "2.0.0", "--to", "production", "--note", "good"]) == 5
    printed = capsys.readouterr()
    assert printed.out == "iris 2.0.0  candidate → staging\n"
    assert printed.err == "penstock: your role is too weak; iris 2.0.0 came as far as staging [ROLE_TOO_WEAK]\n"


def test_promote_without_a_stage_takes_one_step(script: Script, answer: Callable[..., Any]) -> None:
    Ladder(script, registry.STAGE_DEVELOPMENT)
    assert len(answer("model", "promote", "iris", "2.0.0")["moves"]) == 1


@pytest.mark.parametrize("stage", ["archived", "development"])
def test_promote_off_the_way_up_is_a_single_move(script: Script, answer: Callable[..., Any], stage: str) -> None:
    Ladder(script, registry.STAGE_STAGING)
    assert len(answer("model", "promote", "iris", "2.0.0", "--to", stage)["moves"]) == 1


def test_promote_to_where_it_is_or_live_without_a_note_moves_nothing(script: Script) -> None:
    Ladder(script, registry.STAGE_STAGING)
    assert run(["model", "promote", "iris", "2.0.0", "--to", "staging"]) == 1
    assert run(["model", "promote", "iris", "2.0.0", "--to", "production"]) == 2
    assert not any(isinstance(request, registry.PromoteVersionRequest) for request in script.asked)


def test_rollback_says_what_is_live_again(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script.answers["RollbackModel"] = registry.RollbackModelResponse(
        version=registry.ModelVersion(version="1.0.0"), replaced=registry.ModelVersion(version="2.0.0")
    )
    assert run(["model", "rollback", "iris", "--note", "worse", "--approver", "ada"]) == 0
    assert capsys.readouterr().out == "iris 1.0.0 is live again; 2.0.0 is archived\n"
    assert script.asked[0].note == "worse"


def test_history_shows_who_moved_what_where_and_why(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    move = registry.Transition(
        version="2.0.0",
        from_stage=registry.STAGE_STAGING,
        to_stage=registry.STAGE_PRODUCTION,
        kind=registry.TRANSITION_KIND_PROMOTE,
        promoted_by="bob",
        approved_by="ada",
        note="it\nwas\x1b[31m better",
    )
    script.answers["ListTransitions"] = registry.ListTransitionsResponse(transitions=[move])
    assert run(["model", "history", "iris"]) == 0
    _, row = capsys.readouterr().out.splitlines()
    assert row.split() == [
        "2.0.0",
        "staging",
        "→",
        "production",
        "promote",
        "bob",
        "ada",
        "it",
        "was",
        "[31m",
        "better",
    ]


def test_versions_and_get_show_stage_state_and_signature(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    version = version_in(
        registry.STAGE_PRODUCTION,
        framework=registry.FRAMEWORK_ONNX,
        files=[registry.File(path="iris.onnx", sha256="ab", size_bytes=2048)],
    )
    spec = version.signature.inputs.add(name="X", datatype="DATA_TYPE_FP32", shape=[-1, 2], columns=["a", "b"])
    version.validation.opset = 17
    assert spec.name == "X"
    script.answers["ListVersions"] = registry.ListVersionsResponse(versions=[version])
    script.answers["GetVersion"] = registry.GetVersionResponse(version=version)
    script.answers["ResolveVersion"] = registry.ResolveVersionResponse(version=version)
    assert run(["model", "versions", "iris", "--stage", "production", "--state", "ready"]) == 0
    assert run(["model", "get", "iris", "2.0.0"]) == 0
    assert run(["model", "get", "iris", "Production"]) == 0
    printed = capsys.readouterr().out
    assert "X FP32 [-1, 2] (a, b)" in printed
    assert "production  ready" in printed
    listed, exact, resolved = script.asked
    assert (listed.stage, listed.state) == (registry.STAGE_PRODUCTION, registry.VERSION_STATE_READY)
    assert exact.version == "2.0.0"
    assert resolved.selector == "Production"


def test_download_brings_verified_files_and_overwrites_only_by_force(
    script: Script, answer: Callable[..., Any], tmp_path: Path
) -> None:
    content = b"weights"
    file = registry.File(path="sub/iris.onnx", sha256=sha256(content).hexdigest(), size_bytes=len(content))
    script.answers["ResolveVersion"] = registry.ResolveVersionResponse(
        version=version_in(registry.STAGE_PRODUCTION, files=[file])
    )
    script.answers["DownloadFile"] = [
        registry.DownloadFileResponse(file=file),
        registry.DownloadFileResponse(chunk=content),
    ]
    target = tmp_path / "out" / "sub" / "iris.onnx"
    assert answer("model", "download", "iris", "--to", "out")["files"] == [str(target)]
    assert target.read_bytes() == content
    target.write_bytes(b"mine")
    assert run(["model", "download", "iris", "--to", "out"]) == 4
    assert target.read_bytes() == b"mine"
    assert run(["model", "download", "iris", "--to", "out", "--file", "other"]) == 3
    answer("model", "download", "iris", "--to", "out", "--force")
    assert target.read_bytes() == content


def test_a_download_that_does_not_match_its_digest_leaves_nothing(script: Script, tmp_path: Path) -> None:
    file = registry.File(path="iris.onnx", sha256="0" * 64, size_bytes=3)
    script.answers["ResolveVersion"] = registry.ResolveVersionResponse(
        version=version_in(registry.STAGE_PRODUCTION, files=[file])
    )
    script.answers["DownloadFile"] = [registry.DownloadFileResponse(file=file, chunk=b"bad")]
    assert run(["model", "download", "iris", "--to", "out"]) == 1
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil"])
def test_a_file_name_that_leads_out_of_the_folder_is_refused(script: Script, path: str) -> None:
    script.answers["ResolveVersion"] = registry.ResolveVersionResponse(
        version=version_in(registry.STAGE_PRODUCTION, files=[registry.File(path=path, sha256="0", size_bytes=1)])
    )
    assert run(["model", "download", "iris"]) == 1
    assert len(script.asked) == 1


def predicted(script: Script) -> None:
    script.answers["Predict"] = inference.PredictResponse(
        inference_id=ID,
        model="iris",
        version="2.0.0",
        framework="onnx",
        latency_ms=0.25,
        confidences=[0.9, 0.5],
        outputs=[
            to_tensor("label", np.array([0, 2])),
            to_tensor("probabilities", np.array([[0.9, 0.1], [0.5, float("nan")]])),
        ],
    )


def test_predict_prints_a_row_a_line_and_how_to_give_feedback(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    predicted(script)
    assert (
        run(["predict", "iris", '{"X": [[1, 2], [3, 4]]}', "--user", "u", "--session", "s", "--request-id", "r"]) == 0
    )
    printed = capsys.readouterr()
    header, first, second, answered = printed.out.splitlines()
    assert header.split() == ["ROW", "LABEL", "PROBABILITIES", "CONFIDENCE"]
    assert first.split() == ["0", "0", "[0.9,", "0.1]", "90.00%"]
    assert second.split() == ["1", "2", "[0.5,", "nan]", "50.00%"]
    assert answered == f"iris 2.0.0  onnx, 0.25 ms, inference {ID}"
    assert f"penstock feedback {ID} --outcome" in printed.err
    (request,) = script.asked
    assert (request.user_id, request.session_id, request.request_id) == ("u", "s", "r")
    assert [list(row) for row in request.features["X"]] == [[1, 2], [3, 4]]


def test_predict_reads_rows_from_stdin_and_answers_strict_json(
    script: Script, monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any]
) -> None:
    predicted(script)
    monkeypatch.setattr("sys.stdin", io.StringIO('[{"a": 1, "b": 2}, {"a": 3, "b": NaN}]'))
    document = answer("predict", "iris", "-", "--version", "staging")
    assert document["inference_id"] == ID
    assert document["outputs"] == {"label": [0, 2], "probabilities": [[0.9, 0.1], [0.5, "NaN"]]}
    (request,) = script.asked
    assert request.version == "staging"
    assert list(request.features["a"]) == [1, 3]


def test_feedback_says_whether_the_prediction_was_right(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script.answers["RecordFeedback"] = monitoring.RecordFeedbackResponse(
        feedback=monitoring.Feedback(row=1, correct=True), matched=True
    )
    assert run(["feedback", ID, "--outcome", "2", "--row", "1"]) == 0
    assert capsys.readouterr().out == "recorded for row 1: the prediction was right\n"
    (request,) = script.asked
    assert (request.inference_id, request.row, request.actual_outcome.number_value) == (ID, 1, 2)
    assert not request.HasField("correct")


def test_feedback_before_the_event_says_that_it_waits(script: Script, capsys: pytest.CaptureFixture[str]) -> None:
    script.answers["RecordFeedback"] = monitoring.RecordFeedbackResponse(feedback=monitoring.Feedback())
    assert run(["feedback", ID, "--incorrect"]) == 0
    assert "joined when it comes" in capsys.readouterr().out
    assert script.asked[0].correct is False


def test_feedback_without_anything_to_say_is_a_usage_error(script: Script) -> None:
    assert run(["feedback", ID]) == 2
    assert script.asked == []


def test_events_ask_for_the_window_and_show_outcome_and_verdict(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    right = monitoring.Inference(
        event=monitoring.InferenceEvent(inference_id=ID, model="iris", version="2", confidence=0.9, latency_ms=1),
        feedback=[monitoring.Feedback(correct=True), monitoring.Feedback(row=1, correct=False)],
    )
    right.outcomes.add().number_value = 2
    failed = monitoring.Inference(event=monitoring.InferenceEvent(inference_id=ID, error_code="WRONG_SHAPE"))
    script.answers["ListInferences"] = monitoring.ListInferencesResponse(inferences=[right, failed])
    assert run(["events", "--model", "iris", "--since", "2h", "--errors", "--limit", "2"]) == 0
    printed = capsys.readouterr()
    _, first, second = printed.out.splitlines()
    assert "1 of 2 right" in first
    assert "90.00%" in first
    assert "WRONG_SHAPE" in second
    assert "the newest 2" in printed.err
    (request,) = script.asked
    assert request.errors_only
    age = datetime.now(UTC) - request.from_time.ToDatetime(tzinfo=UTC)
    assert timedelta(hours=2) <= age < timedelta(hours=2, minutes=5)


def test_metrics_show_accuracy_and_say_where_it_is_not_known(
    script: Script, capsys: pytest.CaptureFixture[str]
) -> None:
    script.answers["GetMetrics"] = monitoring.GetMetricsResponse(inference_count=1200, row_count=1300)
    assert run(["metrics", "iris"]) == 0
    assert "accuracy     not known" in capsys.readouterr().out
    script.answers["GetMetrics"] = monitoring.GetMetricsResponse(
        inference_count=30, error_count=3, error_rate=0.1, accuracy=0.9667, judged_count=30, correct_count=29
    )
    assert run(["metrics", "iris", "--version", "2.0.0"]) == 0
    printed = capsys.readouterr().out
    assert "96.67%  29 of 30 judged right" in printed
    assert "3 (10.00%)" in printed


def test_metrics_documents_leave_out_what_is_not_known(script: Script, answer: Callable[..., Any]) -> None:
    script.answers["GetMetrics"] = monitoring.GetMetricsResponse(inference_count=2**60)
    document = answer("metrics", "iris")
    assert document["inference_count"] == 2**60
    assert "accuracy" not in document


def test_help_names_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for code in ("0 done", "3 what it names does not exist", "130 stopped by Ctrl-C"):
        assert code in printed
    assert run([]) == 2
    assert run(["--version"]) == 0


def test_help_does_not_wait_for_grpc() -> None:
    loaded = (
        "import sys; import penstock.cli.__main__; print([name for name in ('grpc', 'numpy') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"


def test_ctrl_c_ends_a_command_with_130(script: Script) -> None:
    interrupted = threading.Event()

    def interrupt(_: object) -> registry.ListModelsResponse:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        assert interrupted.wait(30)
        return registry.ListModelsResponse()

    script.answers["ListModels"] = interrupt
    try:
        assert run(["model", "list"]) == 130
    finally:
        interrupted.set()
