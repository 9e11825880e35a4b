"""Our own front door: decode, call, encode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import grpc

from penstock.api.inference.v1.inference_pb2 import (
    EmbedRequest,
    EmbedResponse,
    GenerateRequest,
    GenerateResponse,
    PredictRequest,
    PredictResponse,
    PredictStreamRequest,
    PredictStreamResponse,
    RankRequest,
    RankResponse,
)
from penstock.api.inference.v1.inference_pb2_grpc import (
    InferenceServiceServicer,
    add_InferenceServiceServicer_to_server,
)
from services.common import streams
from services.common.interceptors import known
from services.common.keys import Role
from services.common.server import Service
from services.common.status import status_of
from services.inference import convert
from services.inference.caching.cache import CACHE_KEY
from services.inference.generation import convert as generations
from services.inference.generation.generator import TextGenerator
from services.inference.prediction import Done, Outcome, Prediction, Predictor
from services.inference.prediction_stream import PredictionStream
from services.inference.remaining import remaining_s
from services.inference.texts import convert as texts
from services.inference.texts.embed import TextEmbedder
from services.inference.texts.rank import ItemRanker

NAME = "penstock.api.inference.v1.InferenceService"
ROLES = {
    "Predict": Role.VIEWER,
    "PredictStream": Role.VIEWER,
    "Embed": Role.VIEWER,
    "Generate": Role.VIEWER,
    "Rank": Role.VIEWER,
}


class InferenceServicer(InferenceServiceServicer):
    """Answers penstock.api.inference.v1."""

    def __init__(
        self,
        predictor: Predictor,
        generator: TextGenerator,
        embedder: TextEmbedder,
        ranker: ItemRanker,
        *,
        stream_max_in_flight: int,
    ) -> None:
        self._predictor = predictor
        self._generator = generator
        self._embedder = embedder
        self._ranker = ranker
        self._stream_max_in_flight = stream_max_in_flight

    def Predict(self, request: PredictRequest, context: grpc.ServicerContext) -> PredictResponse:
        """Run a model on one request and record the prediction."""
        prediction = self._predictor.predict(
            request.model,
            request.version,
            convert.read_inputs_of(request),
            convert.caller_of(request),
            outputs=tuple(request.outputs),
            timeout_s=remaining_s(context),
            queue_timeout_s=convert.queue_timeout_s_of(request),
            priority=request.priority,
            skip_cache=request.skip_cache,
            on_cancel=context.add_callback,
        )
        if prediction.cache:
            context.set_trailing_metadata(((CACHE_KEY, prediction.cache),))
        return convert.response_of(prediction)

    def PredictStream(
        self, request_iterator: Iterator[PredictStreamRequest], context: grpc.ServicerContext
    ) -> Iterator[PredictStreamResponse]:
        """Run a model on many requests, and answer each, in their order."""
        begin = partial(self._begin, context)
        stream = PredictionStream(begin, _stream_response, max_in_flight=self._stream_max_in_flight)
        streams.current().finish_on_drain(partial(stream.end, streams.DRAINING))
        return stream.answers(request_iterator, on_cancel=context.add_callback)

    def Embed(self, request: EmbedRequest, context: grpc.ServicerContext) -> EmbedResponse:
        """Turn texts into vectors, and record it."""
        asked = texts.asked_of(request, remaining_s(context), context.add_callback)
        return texts.embed_response(self._embedder.embed(texts.texts_of(request), asked))

    def Generate(self, request: GenerateRequest, context: grpc.ServicerContext) -> Iterator[GenerateResponse]:
        """Write a text, piece by piece, and record it."""
        pieces = self._generator.generate(
            generations.request_of(request), timeout_s=remaining_s(context), on_cancel=context.add_callback
        )
        return generations.responses_of(pieces)

    def Rank(self, request: RankRequest, context: grpc.ServicerContext) -> RankResponse:
        """Put items in the order in which they suit a context, and record it."""
        asked = texts.asked_of(request, remaining_s(context), context.add_callback)
        query, items = texts.query_of(request.context), texts.items_of(request)
        return texts.rank_response(self._ranker.rank(query, items, asked, top_k=request.top_k))

    def _begin(self, context: grpc.ServicerContext, message: PredictStreamRequest, done: Done) -> Callable[[], None]:
        request = message.request
        return self._predictor.submit(
            request.model,
            request.version,
            convert.read_inputs_of(request),
            convert.caller_of(request),
            done,
            outputs=tuple(request.outputs),
            timeout_s=remaining_s(context),
            queue_timeout_s=convert.queue_timeout_s_of(request),
            priority=request.priority,
            skip_cache=request.skip_cache,
        )


def _stream_response(_request: PredictStreamRequest, outcome: Outcome) -> PredictStreamResponse:
    if isinstance(outcome, Prediction):
        return convert.stream_response_of(outcome)
    return convert.stream_response_of(status_of(known(outcome, f"{NAME}/PredictStream")))


def service(
    predictor: Predictor,
    generator: TextGenerator,
    embedder: TextEmbedder,
    ranker: ItemRanker,
    *,
    stream_max_in_flight: int,
) -> Service:
    """Describe the service to the kit. A stream has at most `stream_max_in_flight` requests that are not answered."""
    servicer = InferenceServicer(predictor, generator, embedder, ranker, stream_max_in_flight=stream_max_in_flight)
    return Service(
        name=NAME,
        register=partial(add_InferenceServiceServicer_to_server, servicer),
        roles=ROLES,
        brief=frozenset({"Predict"}),
        endless=frozenset({"PredictStream"}),
    )
