"""The commands that call a service, against a real server in this process whose answers are scripted."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.api.inference.v1 import inference_pb2 as inference
from penstock.api.monitoring.v1 import monitoring_pb2 as monitoring
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.cli.__main__ import run
from penstock.tensors import to_tensor
from services.common import errors
from tests.cli_script import Script, answer, script

__all__ = ["answer", "script"]


ID = "01934a1e-7c00-7000-8000-000000000001"


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


def test_what_every_command_takes_may_stand_before_it(
    script: Script, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script.answers["ListModels"] = registry.ListModelsResponse(models=[registry.Model(name="iris")])
    monkeypatch.setenv("PENSTOCK_TOKEN", "pk_environment")
    assert run(["--json", "--no-color", "--token", "pk_flag", "model", "list", "--limit", "1"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "iris"
    assert script.metadata[-1]["authorization"] == "Bearer pk_flag"
    assert run(["--url=127.0.0.1:1", "model", "list"]) == 6
    assert run(["--token", "pk_flag"]) == 2, "there is no command"


def test_lists_go_on_to_the_next_page_and_stop_at_the_limit(script: Script, answer: Callable[..., Any]) -> None:
    def page(request: registry.ListModelsRequest) -> registry.ListModelsResponse:
        first = int(request.page_token or 0)
        models = [registry.Model(name=f"m{number}") for number in range(first, first + 2)]
        return registry.ListModelsResponse(models=models, next_page_token=str(first + 2))

    script.answers["ListModels"] = page
    assert [model["name"] for model in answer("model", "list", "--limit", "5")] == ["m0", "m1", "m2", "m3", "m4"]


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
    assert header.split() == ["ROW", "label", "probabilities", "CONFIDENCE"], "names stay as they are written"
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
    loaded = "import sys; import penstock.cli.application; print({'grpc', 'numpy'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, timeout=240)
    assert result.stdout.strip() == "set()"


def test_ctrl_c_while_the_commands_are_loaded_is_no_traceback() -> None:
    interrupted = (
        "import sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'penstock.cli.dataset_views':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from penstock.cli.__main__ import main\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", interrupted], capture_output=True, text=True, timeout=240)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_ctrl_c_ends_a_command_with_130(script: Script) -> None:
    interrupted = threading.Event()

    def interrupt(_: object) -> registry.ListModelsResponse:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        assert interrupted.wait(60)
        return registry.ListModelsResponse()

    script.answers["ListModels"] = interrupt
    try:
        assert run(["model", "list"]) == 130
    finally:
        interrupted.set()
