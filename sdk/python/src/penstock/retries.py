"""The one retry policy: what may be repeated, when, and for how long.

A call is repeated only if repeating it is safe (`SAFETY`) *and* worth it: the error says that it is retryable, or no
error details came and the server was UNAVAILABLE. Waits are full-jitter back-off, never shorter than the server asked
for; the deadline of a call spans all its tries.
"""

from __future__ import annotations

import enum
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from google.protobuf.message import Message

from penstock.errors import PenstockError


class Safety(enum.Enum):
    """Whether an RPC may be sent again when its outcome is not known."""

    ALWAYS = "always"
    """Twice does what once does."""
    WITH_REQUEST_ID = "with_request_id"
    """The server knows the request by its `request_id` and answers the repetition with the first result."""
    WHEN_ASKED = "when_asked"
    """It costs or records something each time; the caller decides."""
    NEVER = "never"
    """Twice is not once."""


SAFETY: dict[str, dict[str, Safety]] = {
    "penstock.api.features.v1": {
        "CreateFeatureView": Safety.ALWAYS,  # the same features again are the same version
        "GetFeatureView": Safety.ALWAYS,
        "ListFeatureViews": Safety.ALWAYS,
        "UpdateFeatureView": Safety.ALWAYS,
        "DeleteFeatureView": Safety.NEVER,  # the second finds none
        "WriteFeatures": Safety.ALWAYS,  # rows that are there already are not written again
        "ImportFeatures": Safety.NEVER,  # its blocks may not be there to be read again
        "ImportFeatureSource": Safety.NEVER,  # it may have written what it has counted; who asks again counts anew
        "GetFeatures": Safety.ALWAYS,
        "GetFeaturesAsOf": Safety.NEVER,  # likewise
        "ListFeatureHistory": Safety.ALWAYS,
        "SampleFeatures": Safety.NEVER,  # a stream: who has read some of it begins anew
        "DeleteFeatures": Safety.NEVER,  # the second counts none
    },
    "penstock.api.registry.v1": {
        "CreateModel": Safety.WITH_REQUEST_ID,
        "GetModel": Safety.ALWAYS,
        "ListModels": Safety.ALWAYS,
        "UpdateModel": Safety.ALWAYS,  # the same values again; with an etag the second try says that it changed
        "DeleteModel": Safety.NEVER,  # the second finds nothing to delete, or another model of that name
        "RestoreModel": Safety.NEVER,
        "RegisterVersion": Safety.WITH_REQUEST_ID,  # and only from a source that can be read again
        "GetVersion": Safety.ALWAYS,
        "ListVersions": Safety.ALWAYS,
        "UpdateVersion": Safety.ALWAYS,  # as UpdateModel
        "DeleteVersion": Safety.NEVER,
        "RestoreVersion": Safety.NEVER,
        "RevalidateVersion": Safety.NEVER,  # the second finds the version VALIDATING: WRONG_STATE
        "DownloadFile": Safety.ALWAYS,  # resumed at the byte where it broke
        "CreateDownloadUrl": Safety.ALWAYS,
        "ResolveVersion": Safety.ALWAYS,
        "SetAlias": Safety.ALWAYS,
        "DeleteAlias": Safety.NEVER,  # the second finds none
        "RecordEvaluation": Safety.WITH_REQUEST_ID,
        "ListEvaluations": Safety.ALWAYS,
        "PromoteVersion": Safety.NEVER,  # without a stage named, twice is two stages
        "RollbackModel": Safety.NEVER,  # twice is the predecessor's predecessor
        "ListTransitions": Safety.ALWAYS,
        "GetLiveVersion": Safety.ALWAYS,
        "WatchModels": Safety.ALWAYS,  # resumed after the last revision seen
        "CreateUpload": Safety.WITH_REQUEST_ID,
        "UploadPart": Safety.ALWAYS,  # a part that was sent before is replaced by itself
        "GetUpload": Safety.ALWAYS,
        "FinishUpload": Safety.ALWAYS,
        "AbortUpload": Safety.NEVER,  # the second finds none
        "ListAuditEntries": Safety.ALWAYS,
        "CollectGarbage": Safety.ALWAYS,  # a round after a round
    },
    "penstock.api.inference.v1": {
        "Predict": Safety.WHEN_ASKED,  # each try is recorded as an inference of its own
        "PredictStream": Safety.NEVER,  # what was answered would be predicted again
        "Embed": Safety.WHEN_ASKED,
        "Generate": Safety.NEVER,  # another text would follow on the pieces that were read
        "Rank": Safety.WHEN_ASKED,
        "LoadModel": Safety.ALWAYS,  # what is loaded already stays as it is
        "UnloadModel": Safety.ALWAYS,
        "ListSessions": Safety.ALWAYS,
        "GetCacheStats": Safety.ALWAYS,
        "ResetCacheStats": Safety.ALWAYS,  # what was counted in between is lost either way
        "PurgeCache": Safety.ALWAYS,
        "UploadPredictionInput": Safety.ALWAYS,  # the same bytes again; and only from a source that can be read again
        "CreatePredictionJob": Safety.WITH_REQUEST_ID,
        "GetPredictionJob": Safety.ALWAYS,
        "WaitPredictionJob": Safety.ALWAYS,
        "WatchPredictionJob": Safety.ALWAYS,
        "ListPredictionJobs": Safety.ALWAYS,
        "CancelPredictionJob": Safety.ALWAYS,
        "RetryPredictionJob": Safety.NEVER,  # the second finds it QUEUED: WRONG_STATE
        "DeletePredictionJob": Safety.NEVER,  # the second finds none
        "DownloadPredictionResult": Safety.ALWAYS,  # resumed at the byte where it broke
        "ListPredictionWorkers": Safety.ALWAYS,
    },
    "penstock.api.monitoring.v1": {
        "RecordEvents": Safety.NEVER,  # safe by the event ids, but the SDK can't rewind the caller's iterable
        "RecordFeedback": Safety.ALWAYS,  # the feedback_time is fixed before the first try: the same one wins
        "GetInference": Safety.ALWAYS,
        "ListInferences": Safety.ALWAYS,
        "GetMetrics": Safety.ALWAYS,
        "ListQuarantinedEvents": Safety.ALWAYS,
        "ListMetrics": Safety.ALWAYS,
        "GetRealtimeMetrics": Safety.ALWAYS,
        "WatchMetrics": Safety.ALWAYS,
        "UploadProfile": Safety.WITH_REQUEST_ID,  # and only from a source that can be read again
        "CreateProfile": Safety.WITH_REQUEST_ID,
        "GetProfile": Safety.ALWAYS,
        "ListProfiles": Safety.ALWAYS,
        "AttachProfile": Safety.ALWAYS,  # the same one again
        "CheckDrift": Safety.WHEN_ASKED,  # each check is kept
        "GetDriftCheck": Safety.ALWAYS,
        "ListDriftChecks": Safety.ALWAYS,
        "CheckQuality": Safety.WHEN_ASKED,
        "GetQualityCheck": Safety.ALWAYS,
        "ListQualityChecks": Safety.ALWAYS,
        "CreateAlertRule": Safety.WITH_REQUEST_ID,
        "UpdateAlertRule": Safety.ALWAYS,  # the whole rule again; with an etag the second try says that it changed
        "DeleteAlertRule": Safety.NEVER,  # the second finds none
        "GetAlertRule": Safety.ALWAYS,
        "ListAlertRules": Safety.ALWAYS,
        "ListAlertRuleChanges": Safety.ALWAYS,
        "GetAlert": Safety.ALWAYS,
        "ListAlerts": Safety.ALWAYS,
        "AcknowledgeAlert": Safety.ALWAYS,  # by the same, with the same note
        "CreateSilence": Safety.WITH_REQUEST_ID,
        "EndSilence": Safety.ALWAYS,  # what is over stays over
        "ListSilences": Safety.ALWAYS,
        "SetChannel": Safety.ALWAYS,
        "DeleteChannel": Safety.NEVER,  # the second finds none
        "ListChannels": Safety.ALWAYS,
        "TestChannel": Safety.NEVER,  # somebody reads each message
        "ListChannelChanges": Safety.ALWAYS,
        "CreateRetrainingRequest": Safety.WITH_REQUEST_ID,
        "GetRetrainingRequest": Safety.ALWAYS,
        "ListRetrainingRequests": Safety.ALWAYS,
        "ApproveRetrainingRequest": Safety.NEVER,  # the second finds it APPROVED: WRONG_STATE
        "RejectRetrainingRequest": Safety.NEVER,
        "GetLineage": Safety.ALWAYS,
        "GetConfiguration": Safety.ALWAYS,
        "SetConfiguration": Safety.ALWAYS,  # as UpdateAlertRule
        "ListConfigurationChanges": Safety.ALWAYS,
        "ExportEvents": Safety.ALWAYS,  # from the file's beginning
        "ExportMetrics": Safety.ALWAYS,
    },
    "penstock.api.fetcher.v1": {
        "CreateFetchJob": Safety.WITH_REQUEST_ID,
        "GetFetchJob": Safety.ALWAYS,
        "WatchFetchJob": Safety.ALWAYS,
        "ListFetchJobs": Safety.ALWAYS,
        "CancelFetchJob": Safety.ALWAYS,
        "RetryFetchJob": Safety.NEVER,  # the second finds it QUEUED: WRONG_STATE
        "DeleteFetchJob": Safety.NEVER,  # the second finds none
        "CreateFetchSchedule": Safety.WITH_REQUEST_ID,
        "GetFetchSchedule": Safety.ALWAYS,
        "ListFetchSchedules": Safety.ALWAYS,
        "SetFetchScheduleEnabled": Safety.ALWAYS,  # what it is already, it stays
        "DeleteFetchSchedule": Safety.NEVER,  # the second finds none
        "ListSources": Safety.ALWAYS,
        "InspectSource": Safety.ALWAYS,
    },
    "penstock.api.trainer.v1": {
        "ValidateVersion": Safety.WITH_REQUEST_ID,
        "GetValidation": Safety.ALWAYS,
        "ListValidations": Safety.ALWAYS,
        "WatchValidation": Safety.ALWAYS,
        "CancelValidation": Safety.ALWAYS,
        "UploadDataset": Safety.WITH_REQUEST_ID,  # and only from a source that can be read again
        "BuildDataset": Safety.WITH_REQUEST_ID,
        "GetDataset": Safety.ALWAYS,
        "ListDatasets": Safety.ALWAYS,
        "PreviewDataset": Safety.ALWAYS,
        "DownloadDataset": Safety.ALWAYS,  # resumed at the byte where it broke
        "SplitDataset": Safety.ALWAYS,  # the same split again is the same one
        "DeleteDataset": Safety.NEVER,  # the second finds none
        "UploadScript": Safety.WITH_REQUEST_ID,  # and only from a source that can be read again
        "GetScript": Safety.ALWAYS,
        "ListScripts": Safety.ALWAYS,
        "DownloadScript": Safety.ALWAYS,  # resumed at the byte where it broke
        "DeleteScript": Safety.NEVER,  # the second finds none
        "CreateTrainingRun": Safety.WITH_REQUEST_ID,
        "GetTrainingRun": Safety.ALWAYS,
        "ListTrainingRuns": Safety.ALWAYS,
        "WatchTrainingRun": Safety.ALWAYS,
        "CancelTrainingRun": Safety.ALWAYS,
        "ListTrainingEpochs": Safety.ALWAYS,
        "ReadTrainingLog": Safety.ALWAYS,  # resumed at the byte where it broke
        "DeleteTrainingRun": Safety.NEVER,  # the second finds none
        "ListRecipes": Safety.ALWAYS,
        "ClaimTrainingTask": Safety.NEVER,  # the second is another run
        "GetTrainingTask": Safety.ALWAYS,
        "DownloadTrainingInput": Safety.ALWAYS,  # resumed at the byte where it broke
        "ReportTrainingProgress": Safety.ALWAYS,  # known by its sequence
        "UploadTrainingOutput": Safety.ALWAYS,  # the same files again take the place of those
        "CompleteTrainingRun": Safety.ALWAYS,  # the same outcome again is answered as before
        "FailTrainingRun": Safety.ALWAYS,
    },
}
"""By proto package and RPC. A test holds it complete against the contracts."""


def rpc_of(request: type[Message]) -> tuple[str, str]:
    """Give the package and the name of the RPC that takes a request: each RPC has a request of its own."""
    package, _, name = request.DESCRIPTOR.full_name.rpartition(".")
    return package, name.removesuffix("Request")


def may_repeat(request: Message, *, asked: bool = False) -> bool:
    """Say whether a request may be sent again; `asked`: the caller wants it to be, where it is for them to say."""
    package, rpc = rpc_of(type(request))
    match SAFETY[package][rpc]:
        case Safety.ALWAYS:
            return True
        case Safety.WITH_REQUEST_ID:
            return bool(getattr(request, "request_id", ""))
        case Safety.WHEN_ASKED:
            return asked
        case Safety.NEVER:
            return False


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently a call that may be repeated is repeated.

    Attributes:
        attempts: tries in all, 1 or more. For a stream: tries in a row without a message.
        base_delay_s: the longest first wait, in seconds; it doubles from try to try.
        max_delay_s: the longest wait of all, in seconds. What the server asks for may be longer: up to the call's
            deadline, or 60 s where it has none.
    """

    attempts: int = 5
    base_delay_s: float = 0.1
    max_delay_s: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.base_delay_s < 0 or self.max_delay_s < self.base_delay_s:
            raise ValueError(f"attempts must be 1 or more and 0 <= base_delay_s <= max_delay_s; got {self}")

    def delay_s(self, failures: int, retry_after_s: float | None = None) -> float:
        """Draw the wait after so many failures (1 or more), in seconds: full jitter, upon what the server asked for."""
        longest = min(self.max_delay_s, self.base_delay_s * 2.0 ** min(failures - 1, 60))
        return (retry_after_s or 0.0) + random.uniform(0, longest)  # noqa: S311 - spreads load, guards no secret


MAX_ASKED_WAIT_S = 60.0
"""An upload, a download or a watch has no deadline: where the server asks for a longer wait, the caller hears of it."""
NO_RETRIES = RetryPolicy(attempts=1)
"""Every failure is the caller's."""
WATCH_PATIENCE_S = 60.0
"""A job goes on while its service starts anew, and so does whoever watches it: so long a break is tried."""
Broken = Callable[[PenstockError], object]
"""Called once for each break that is about to be mended."""


class Tries:
    """The tries of one call: counts failures, waits between them, and keeps to the deadline."""

    def __init__(
        self, policy: RetryPolicy, timeout_s: float = inf, *, patience_s: float = 0.0, broken: Broken | None = None
    ) -> None:
        """Begin to count; what has brought something is tried for `patience_s`, too, if the policy has retries."""
        self._policy = policy
        self._deadline = time.monotonic() + timeout_s
        self._patience_s = patience_s if policy.attempts > 1 else 0.0
        self._patient_until = 0.0
        self._begun = False
        self._broken = broken
        self._failures = 0

    @property
    def remaining_s(self) -> float:
        """What is left of the time allowed, in seconds; 0 at the least."""
        return max(0.0, self._deadline - time.monotonic())

    def progressed(self) -> None:
        """Forget the failures: a stream brought something."""
        self._begun = True
        self._failures = 0

    def again(self, error: PenstockError) -> None:
        """Wait until the next try; raises `error` itself where there is none, or no time left for it."""
        self._failures += 1
        if self._failures == 1:
            self._patient_until = time.monotonic() + self._patience_s * self._begun
        spent = self._failures >= self._policy.attempts and time.monotonic() >= self._patient_until
        if not error.retryable or spent:
            raise error
        delay_s = self._policy.delay_s(self._failures, error.retry_after_s)
        if delay_s >= self.remaining_s:
            raise error
        if self.remaining_s == inf and (error.retry_after_s or 0.0) > MAX_ASKED_WAIT_S:
            raise error
        if self._broken is not None and self._failures == 1:
            self._broken(error)
        time.sleep(delay_s)
