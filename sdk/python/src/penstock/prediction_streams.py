"""Predictions over one stream: many in flight at once, and their answers in the order of the requests."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing

from penstock.api.inference.v1 import inference_pb2 as pb
from penstock.errors import PenstockError, Unavailable, from_status
from penstock.inference_connection import InferenceConnected
from penstock.predictions import Prediction, prediction_of


class InferenceStreams(InferenceConnected):
    """The part of the inference client that predicts over streams."""

    def predict_stream(
        self, requests: Iterable[pb.PredictRequest]
    ) -> Generator[Prediction | PenstockError, None, None]:
        """Send requests as fast as the server takes them, and give the answer to each, in their order.

        A request that fails gives its error in place of a prediction, and the stream goes on. Never retried: after an
        error of the stream itself send everything again for which no answer came. Leaving the iterator cancels what
        is not answered. Whatever the client's `connections`, a stream is on one of them.

        Args:
            requests: see `make_request`. Read from another thread; what it raises is raised here.

        Raises:
            Unavailable: the server drains (DRAINING) or ended the stream early (STREAM_ENDED_EARLY).
            DeadlineExceeded: it owed an answer for longer than the client's idle time-out (STREAM_STALLED).
        """
        sent_count = answered_count = 0
        all_sent = False

        def messages() -> Iterator[pb.PredictStreamRequest]:
            nonlocal sent_count, all_sent
            for request in requests:
                sent_count += 1
                yield pb.PredictStreamRequest(request=request)
            all_sent = True

        method = self._connection.stub.PredictStream
        with closing(self._connection.exchange(method, pb.PredictStreamRequest, messages())) as answers:
            for answer in answers:
                answered_count += 1
                failed = answer.WhichOneof("result") == "error"
                yield from_status(answer.error) if failed else prediction_of(answer.prediction)
        if answered_count < sent_count or not all_sent:
            raise Unavailable(
                f"the server answered {answered_count} requests and ended the stream; send the rest",
                reason="STREAM_ENDED_EARLY",
                retryable=True,
            )
