"""The inference client: named values or numpy in, and numpy out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import ArrayLike, NDArray

from penstock.generation import InferenceGeneration
from penstock.prediction_streams import InferenceStreams
from penstock.predictions import Prediction, make_request, prediction_of
from penstock.response_cache import InferenceResponseCache
from penstock.sessions import InferenceSessions
from penstock.texts import InferenceTexts

__all__ = ["InferenceClient", "Prediction"]


class InferenceClient(InferenceStreams, InferenceGeneration, InferenceTexts, InferenceSessions, InferenceResponseCache):
    """Calls the inference service."""

    def predict(
        self,
        model: str,
        features: Mapping[str, Any] | NDArray[Any] | None = None,
        *,
        tensors: Mapping[str, ArrayLike] | None = None,
        entity_ids: Sequence[str] = (),
        version: str = "",
        outputs: Sequence[str] = (),
        user_id: str = "",
        session_id: str = "",
        request_id: str = "",
        priority: int = 0,
        queue_timeout_ms: int = 0,
        skip_cache: bool = False,
        skip_event: bool = False,
        timeout_s: float | None = None,
        retry: bool = False,
    ) -> Prediction:
        """Run a model on one request, of one row or many, and record the prediction.

        Args:
            model: the model.
            features: values by the name of an input or a column: numbers, strings, booleans or (nested) lists of
                them, None for NaN; a flat list is one row. Or one numpy array, for a model with one input.
            tensors: arrays by the name of an input, in the model's own datatypes: the fast way.
            entity_ids: the entities that the rows are about, one a row: what is left out of the inputs is read from the
                feature view that the version's serving settings name. With them neither of both need be given.
            version: an exact version, a stage, `latest`; empty: PRODUCTION, else the latest.
            outputs: which outputs are wanted; empty: all.
            user_id: who it is for; at most 256 characters, kept with the event.
            session_id: likewise.
            request_id: the caller's own id, at most 256 characters; empty: the inference id.
            priority: 1 goes first while several wait, up to the version's number of levels; 0: its default level.
            queue_timeout_ms: how long it may wait before it runs, in ms; 0: the version's time-out.
            skip_cache: neither look into the response cache nor keep the answer there.
            skip_event: leave no event behind, so that monitoring does not count the prediction; for operators, who try
                a version.
            timeout_s: of the whole call, in seconds; None: the client's.
            retry: try again where the service is unavailable or busy. Each try that got through is an inference of
                its own.

        Raises:
            InvalidArgument: an input is unknown, missing, or of the wrong datatype or shape; `violations` names it.
            NotFound: no such model or version.
            FailedPrecondition: the model could not be loaded (MODEL_LOAD_FAILED); of an entity there is no value
                (ENTITY_NOT_FOUND, FEATURE_MISSING, FEATURE_STALE), or the version has no view (NO_FEATURE_VIEW).
            ResourceExhausted: the server is full (QUEUE_FULL, SESSION_BUDGET_EXCEEDED).
            DeadlineExceeded, Unavailable: no answer in time, or at all.
        """
        request = make_request(
            model,
            features,
            tensors=tensors,
            entity_ids=entity_ids,
            version=version,
            outputs=outputs,
            user_id=user_id,
            session_id=session_id,
            request_id=request_id,
            priority=priority,
            queue_timeout_ms=queue_timeout_ms,
            skip_cache=skip_cache,
            skip_event=skip_event,
        )
        answer = self._connection.unary(self._connection.stub.Predict, request, timeout_s=timeout_s, retry=retry)
        return prediction_of(answer)
