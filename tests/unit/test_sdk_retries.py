"""What is sent again, when, and what never is."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.message_factory import GetMessageClass

from penstock import NO_RETRIES, RetryPolicy
from penstock import errors as sdk
from penstock.api.fetcher.v1 import fetch_jobs_pb2 as fetches
from penstock.api.inference.v1 import inference_pb2
from penstock.api.monitoring.v1 import monitoring_pb2
from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.retries import SAFETY, Safety, Tries, may_repeat, rpc_of
from services.common import errors
from tests.sdk import CONTRACTS, ScriptedServer, abort, answer, client_of, fail, scripted_server, stream

QUICK = RetryPolicy(attempts=4, base_delay_s=0.001, max_delay_s=0.002)
GONE = fail(errors.Unavailable("the database is gone"))
MODEL = answer(pb.GetModelResponse(model=pb.Model(name="iris")))


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


def test_the_table_names_every_rpc_of_the_contracts() -> None:
    contracts: dict[str, set[str]] = {}
    for file in CONTRACTS:
        for service in file.services_by_name.values():
            contracts.setdefault(file.package, set()).update(method.name for method in service.methods)
    assert {package: set(rpcs) for package, rpcs in SAFETY.items()} == contracts


def test_each_rpc_is_known_by_its_request() -> None:
    for file in CONTRACTS:
        for service in file.services_by_name.values():
            for method in service.methods:
                assert rpc_of(GetMessageClass(method.input_type)) == (file.package, method.name)


def test_a_read_is_repeated_until_it_succeeds(server: ScriptedServer) -> None:
    server.on("GetModel", GONE, GONE, MODEL)
    with client_of(server, retry=QUICK) as client:
        assert client.registry.get_model("iris").name == "iris"
    assert len(server.calls["GetModel"]) == 3


def test_the_last_error_is_raised_after_so_many_tries(server: ScriptedServer) -> None:
    server.on("GetModel", GONE)
    with client_of(server, retry=QUICK) as client, pytest.raises(sdk.Unavailable):
        client.registry.get_model("iris")
    assert len(server.calls["GetModel"]) == 4


def test_an_error_that_stays_is_not_repeated(server: ScriptedServer) -> None:
    server.on("GetModel", fail(errors.NotFound("no such model")))
    with client_of(server, retry=QUICK) as client, pytest.raises(sdk.NotFound):
        client.registry.get_model("iris")
    assert len(server.calls["GetModel"]) == 1


def test_promotions_and_rollbacks_are_sent_once(server: ScriptedServer) -> None:
    server.on("PromoteVersion", GONE)
    server.on("RollbackModel", GONE)
    server.on("RevalidateVersion", GONE)
    with client_of(server, retry=QUICK) as client:
        for call in (
            lambda: client.registry.promote("iris", "1"),
            lambda: client.registry.rollback("iris", approved_by="a", note="n"),
            lambda: client.registry.revalidate("iris", "1"),
        ):
            with pytest.raises(sdk.Unavailable):
                call()
    assert [len(server.calls[rpc]) for rpc in ("PromoteVersion", "RollbackModel", "RevalidateVersion")] == [1, 1, 1]


def test_a_create_is_repeated_under_one_request_id(server: ScriptedServer) -> None:
    server.on("CreateModel", GONE, answer(pb.CreateModelResponse(model=pb.Model(name="iris"))))
    with client_of(server, retry=QUICK) as client:
        client.registry.create_model("iris")
    first, second = server.calls["CreateModel"]
    assert first.request_id
    assert first.request_id == second.request_id


def test_a_create_without_a_request_id_may_not_be_repeated() -> None:
    assert not may_repeat(pb.CreateModelRequest(name="iris"))
    assert may_repeat(pb.CreateModelRequest(name="iris", request_id="1"))


def test_a_prediction_is_repeated_only_when_asked(server: ScriptedServer) -> None:
    busy = fail(errors.ResourceExhausted("full", reason="QUEUE_FULL"))
    server.on("Predict", busy, answer(inference_pb2.PredictResponse(model="iris")))
    with client_of(server, retry=QUICK) as client:
        with pytest.raises(sdk.ResourceExhausted):
            client.inference.predict("iris", {"x": 1.0})
        server.on("Predict", busy, answer(inference_pb2.PredictResponse(model="iris")))
        assert client.inference.predict("iris", {"x": 1.0}, retry=True).model == "iris"


def test_a_repeated_feedback_keeps_its_time(server: ScriptedServer) -> None:
    server.on("RecordFeedback", GONE, answer(monitoring_pb2.RecordFeedbackResponse(matched=True)))
    with client_of(server, retry=QUICK) as client:
        assert client.monitoring.record_feedback("id", "setosa").matched
    first, second = server.calls["RecordFeedback"]
    assert first == second
    assert first.HasField("feedback_time")


def test_no_retries_means_none(server: ScriptedServer) -> None:
    server.on("GetModel", GONE, MODEL)
    with client_of(server, retry=NO_RETRIES) as client, pytest.raises(sdk.Unavailable):
        client.registry.get_model("iris")


def test_a_wait_beyond_the_deadline_is_not_begun(server: ScriptedServer) -> None:
    server.on("GetModel", fail(errors.Unavailable("later", retry_after_s=3_600)), MODEL)
    with client_of(server, retry=QUICK, timeout_s=5) as client, pytest.raises(sdk.Unavailable, match="later"):
        client.registry.get_model("iris")
    assert len(server.calls["GetModel"]) == 1


def test_an_upload_or_a_download_does_not_sleep_for_hours_because_the_server_says_so(server: ScriptedServer) -> None:
    spent = fail(errors.ResourceExhausted("a minute's bytes are spent", reason="BYTE_LIMIT", retry_after_s=61))
    for rpc in ("RegisterVersion", "DownloadFile", "WatchModels"):
        server.on(rpc, spent)
    with client_of(server, retry=QUICK) as client:
        for call in (
            lambda: client.registry.register_version("iris", "1", b"bytes", framework="onnx"),
            lambda: list(client.registry.download_chunks("iris", "1")),
            lambda: list(client.registry.watch()),
        ):
            with pytest.raises(sdk.ResourceExhausted) as caught:
                call()
            assert (caught.value.reason, caught.value.retry_after_s) == ("BYTE_LIMIT", 61)


def test_a_wait_of_a_minute_is_waited_without_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    Tries(QUICK).again(sdk.ResourceExhausted("spent", retryable=True, retry_after_s=60.0))
    Tries(QUICK, timeout_s=3_600.0).again(sdk.ResourceExhausted("spent", retryable=True, retry_after_s=600.0))
    assert [round(each) for each in slept] == [60, 600]


def test_the_deadline_spans_all_tries(server: ScriptedServer) -> None:
    left_s: list[float] = []

    def note(request: object, context: grpc.ServicerContext) -> None:
        left_s.append(context.time_remaining())
        abort(context, errors.Unavailable("gone", retry_after_s=0.2))

    server.on("GetModel", note)
    with client_of(server, retry=QUICK, timeout_s=20) as client, pytest.raises(sdk.Unavailable):
        client.registry.get_model("iris")
    # The wire rounds what is left up, by less than the waits take from it.
    assert left_s[0] - left_s[3] > 0.3


def test_waits_grow_are_capped_and_never_below_what_the_server_asked() -> None:
    policy = RetryPolicy(attempts=9, base_delay_s=0.1, max_delay_s=1.0)
    assert all(0 <= policy.delay_s(1) <= 0.1 for _ in range(100))
    assert max(policy.delay_s(4) for _ in range(500)) > 0.4
    assert all(policy.delay_s(60) <= 1.0 for _ in range(100))
    assert all(3.0 <= policy.delay_s(1, 3.0) <= 3.1 for _ in range(100))


@pytest.mark.parametrize("bad", [{"attempts": 0}, {"base_delay_s": -1.0}, {"base_delay_s": 2.0, "max_delay_s": 1.0}])
def test_a_senseless_policy_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="attempts must be 1 or more"):
        RetryPolicy(**bad)  # type: ignore[arg-type]  # ints and floats alike


def test_progress_forgets_earlier_failures() -> None:
    tries = Tries(RetryPolicy(attempts=2, base_delay_s=0.0, max_delay_s=0.0))
    error = sdk.Unavailable("gone", retryable=True)
    tries.again(error)
    tries.progressed()
    tries.again(error)
    with pytest.raises(sdk.Unavailable):
        tries.again(error)
    assert tries.remaining_s > time.monotonic()  # no deadline


def test_only_reads_and_what_says_a_state_are_always_safe() -> None:
    """A new RPC must be thought about: this list is the second pair of eyes."""
    always = {rpc for rpcs in SAFETY.values() for rpc, safety in rpcs.items() if safety is Safety.ALWAYS}
    verbs = ("Get", "List", "Resolve", "Watch", "Download", "Export")
    assert {rpc for rpc in always if not rpc.startswith(verbs)} == {
        "AcknowledgeAlert",
        "AttachProfile",
        "PreviewDataset",
        "ReadTrainingLog",
        "SplitDataset",
        "CancelFetchJob",
        "CancelPredictionJob",
        "CancelTrainingRun",
        "CancelValidation",
        "CollectGarbage",
        "CompleteTrainingRun",
        "CreateDownloadUrl",
        "CreateFeatureView",
        "EndSilence",
        "FailTrainingRun",
        "FinishUpload",
        "InspectSource",
        "LoadModel",
        "PurgeCache",
        "RecordFeedback",
        "ReportTrainingProgress",
        "ResetCacheStats",
        "SetAlias",
        "SetChannel",
        "SetConfiguration",
        "SetFetchScheduleEnabled",
        "UnloadModel",
        "UpdateAlertRule",
        "UpdateFeatureView",
        "UpdateModel",
        "UpdateVersion",
        "WriteFeatures",
        "UploadPart",
        "UploadPredictionInput",
        "UploadTrainingOutput",
        "WaitPredictionJob",
    }


def test_a_watch_of_a_job_outlives_more_failures_than_other_calls_have_tries(server: ScriptedServer) -> None:
    begun = fetches.WatchFetchJobResponse(job=fetches.FetchJob(state=fetches.FETCH_JOB_STATE_DOWNLOADING))
    done = fetches.WatchFetchJobResponse(job=fetches.FetchJob(state=fetches.FETCH_JOB_STATE_COMPLETED))
    broken: list[sdk.PenstockError] = []
    server.on("WatchFetchJob", stream(begun, then=errors.Unavailable("it stops")), *[GONE] * 9, stream(done))
    with client_of(server, fetcher=server.address, retry=QUICK) as client:
        seen = [job.state for job in client.fetcher.watch("id", broken=broken.append)]
    assert seen == [begun.job.state, done.job.state]
    assert [error.message for error in broken] == ["it stops"], "it is told once of each break"


def test_a_watch_that_never_began_is_given_up_like_any_call(server: ScriptedServer) -> None:
    server.on("WatchFetchJob", GONE)
    with client_of(server, fetcher=server.address, retry=QUICK) as client, pytest.raises(sdk.Unavailable):
        next(client.fetcher.watch("id"))
    assert len(server.calls["WatchFetchJob"]) == QUICK.attempts


def _again_and_again(tries: Tries, error: sdk.PenstockError) -> None:
    for _ in range(100_000):
        tries.again(error)


def test_patience_ends_and_who_wants_no_retries_has_none() -> None:
    error = sdk.Unavailable("gone", retryable=True)
    patient = Tries(QUICK, patience_s=0.01)
    patient.progressed()
    with pytest.raises(sdk.Unavailable):
        _again_and_again(patient, error)
    none = Tries(NO_RETRIES, patience_s=60.0)
    none.progressed()
    with pytest.raises(sdk.Unavailable):
        none.again(error)
