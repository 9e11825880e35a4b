"""The use cases of Embed and Rank over sessions that answer as a test says, through the real engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, cast

import numpy as np
import pytest
from google.protobuf.struct_pb2 import Struct

from penstock.api.inference.v1 import inference_pb2 as pb
from services.common.errors import Cancelled, DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound
from services.inference.engine.engine import Engine
from services.inference.events.events import Event, EventLog
from services.inference.models import Caller, ModelFailed, ResolvedVersion, ServingSettings, Signature, TensorSpec
from services.inference.sessions.sessions import SessionCache
from services.inference.tensors import Tensor
from services.inference.texts.attempts import Asked, TextRuns
from services.inference.texts.convert import items_of, query_of
from services.inference.texts.embed import TextEmbedder
from services.inference.texts.rank import Item, ItemRanker, Ranking
from tests.serving import PlainSession, Versions

TEXT = TensorSpec("text", "BYTES", (-1,))
EMBEDS = Signature((TEXT,), (TensorSpec("embedding", "FP32", (-1, 2)),))
RERANKS = Signature((TensorSpec("query", "BYTES", (-1,)), TEXT), (TensorSpec("score", "FP32", (-1,)),))


def angle(text: bytes) -> list[float]:
    """A vector of another length for each text: `60` stands at 60 degrees, and is 60 long."""
    degrees = float(text)
    return [(degrees + 1) * np.cos(np.radians(degrees)), (degrees + 1) * np.sin(np.radians(degrees))]


class AnsweringSession(PlainSession):
    """Answers each text by a function, and keeps what it was asked."""

    def __init__(self, answer: Callable[[bytes], Any], output: str) -> None:
        super().__init__()
        self.answer = answer
        self.output = output
        self.asked: list[list[bytes]] = []

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str] = ()) -> dict[str, Tensor]:
        texts = inputs["text"].tolist()
        self.asked.append(texts)
        return {self.output: np.array([self.answer(text) for text in texts], np.float32)}


class KeptEvents:
    """Takes events in place of the spool."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def append(self, event: Event) -> None:
        self.events.append(event)


class Bench:
    """Both use cases over one model, and what they left behind."""

    def __init__(
        self,
        answer: Callable[[bytes], Any] = angle,
        *,
        signature: Signature = EMBEDS,
        independent: bool = True,
        framework: str = "onnx",
        max_batch_size: int = 0,
    ) -> None:
        serving = ServingSettings(max_batch_size=max_batch_size)
        version = ResolvedVersion(
            "m", "1", 1, framework, "production", signature, rows_independent=independent, serving=serving
        )
        resolver = Versions(version)
        self.session = AnsweringSession(answer, signature.outputs[0].name)
        self.kept = KeptEvents()
        self.cache = SessionCache(self._load)
        engine = Engine(resolver, self.cache)
        runs = TextRuns(resolver, engine, EventLog(cast("Any", self.kept)), max_batch_size=4)
        self.embedder, self.ranker = TextEmbedder(runs), ItemRanker(runs)

    def _load(self, version: ResolvedVersion, resources: ExitStack) -> AnsweringSession:
        return self.session

    def embed(self, *texts: str, **more: Any) -> Any:
        return self.embedder.embed(texts, asked(**more)).vectors

    def rank(self, query: str, *texts: str, top_k: int = 0) -> Ranking:
        items = [Item(f"{place}:{text}", text) for place, text in enumerate(texts)]
        return self.ranker.rank(query, items, asked(), top_k=top_k)

    @property
    def event(self) -> Event:
        (event,) = self.kept.events
        return event


def asked(
    *,
    model: str = "m",
    timeout_s: float | None = None,
    on_cancel: Callable[[Callable[[], None]], bool] = lambda callback: True,
) -> Asked:
    return Asked(model, "", Caller("ada", "s", "r"), timeout_s, on_cancel)


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(*arguments: Any, **more: Any) -> Bench:
        made.append(Bench(*arguments, **more))
        return made[-1]

    yield make
    for each in made:
        each.cache.close(60)


def test_many_texts_are_several_requests_one_event_and_in_order(bench: Callable[..., Bench]) -> None:
    here = bench()
    texts = ["1", "222", "30", "4", "5.00000", "6", "70", "8", "9"]
    np.testing.assert_allclose(here.embed(*texts), [angle(text.encode()) for text in texts], rtol=1e-6)
    assert [len(batch) for batch in here.session.asked] == [4, 4, 1]
    assert here.session.asked[0] == [b"5.00000", b"222", b"30", b"70"], "texts of like length run together"
    event = here.event
    assert (event.row_count, event.error_code, event.caller) == (9, "", Caller("ada", "s", "r"))
    assert event.inputs["text"].tolist() == [text.encode() for text in texts]
    assert event.outputs["embedding"].shape == (9, 2)


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({"max_batch_size": 2}, [2, 2, 1]),
        ({"independent": False}, [1] * 5),
        ({"independent": False, "framework": "transformers"}, [4, 1]),
        ({"independent": False, "framework": "ollama"}, [4, 1]),
    ],
)
def test_as_many_run_at_once_as_the_version_takes(
    bench: Callable[..., Bench], settings: dict[str, Any], sizes: list[int]
) -> None:
    here = bench(**settings)
    here.embed("1", "2", "3", "4", "5")
    assert [len(batch) for batch in here.session.asked] == sizes


def test_items_are_scored_by_the_angle_alone_best_first(bench: Callable[..., Bench]) -> None:
    here = bench()
    ranking = here.rank("10", "100", "10", "40", "10", "200")
    assert [item.id for item in ranking.items] == ["1:10", "3:10", "2:40", "0:100", "4:200"]
    for item in ranking.items:
        degrees = float(item.id.partition(":")[2]) - 10
        assert item.score == pytest.approx(np.cos(np.radians(degrees)), abs=1e-6)
    assert ranking.items[0].score == ranking.items[1].score
    event = here.event
    assert event.row_count == 5
    assert event.outputs["score"].tolist() == [
        item.score for item in sorted(ranking.items, key=lambda item: item.id)
    ], "in the order of the items that came"
    assert [item.id for item in here.rank("10", "100", "10", "40", top_k=2).items] == ["1:10", "2:40"]


def test_an_item_that_the_model_cannot_answer_fails_alone(bench: Callable[..., Bench]) -> None:
    def answer(text: bytes) -> list[float]:
        if text == b"66":
            raise InvalidArgument("the model refuses this input", reason="INPUT_REFUSED")
        if text == b"77":
            raise ModelFailed("the model failed")
        return [np.nan, 1] if text == b"88" else [0, 0] if text == b"99" else angle(text)

    here = bench(answer)
    ranking = here.rank("10", "11", "66", "12", "77", "13", "88", "14", "99", "170", "15", "")
    assert [item.id.partition(":")[2] for item in ranking.items] == [
        "11", "12", "13", "14", "15", "170", "66", "77", "88", "99", "",
    ]  # fmt: skip
    assert [item.error for item in ranking.items[:6]] == [""] * 6
    said = [item.error for item in ranking.items[6:]]
    assert said[:2] == ["the model refuses this input", "the model failed"]
    assert all("no usable vector" in error for error in said[2:4])
    assert "no name, description or category" in said[4]
    assert ranking.items[5].score < 0, "an ill suited item still comes before one that has no score"
    assert {item.score for item in ranking.items[6:]} == {0.0}
    assert here.event.error_code == ""


@pytest.mark.parametrize("answer", [[np.nan, 1], [0, 0]])
def test_a_context_without_a_usable_vector_fails_the_call(bench: Callable[..., Bench], answer: list[float]) -> None:
    here = bench(lambda text: answer if text == b"10" else angle(text))
    with pytest.raises(ModelFailed, match="no usable vector for the context"):
        here.rank("10", "11")
    assert here.event.error_code == "MODEL_FAILED"


def test_a_context_that_the_model_refuses_fails_the_call(bench: Callable[..., Bench]) -> None:
    def answer(text: bytes) -> list[float]:
        if text == b"10":
            raise InvalidArgument("refused", reason="INPUT_REFUSED")
        return angle(text)

    with pytest.raises(InvalidArgument, match="refused"):
        bench(answer).rank("10", "11", "12")


def test_a_run_that_took_too_long_is_not_tried_again_row_by_row(bench: Callable[..., Bench]) -> None:
    def answer(text: bytes) -> list[float]:
        raise ModelFailed("ended", reason="RUN_TERMINATED")

    here = bench(answer)
    with pytest.raises(ModelFailed, match="ended"):
        here.rank("10", "11", "12")
    assert len(here.session.asked) == 1
    assert here.event.error_code == "RUN_TERMINATED"


@pytest.mark.parametrize("bad", ["", "3"])
def test_a_reranker_scores_pairs_and_fails_them_one_by_one(bench: Callable[..., Bench], bad: str) -> None:
    def answer(text: bytes) -> float:
        if text == b"3":
            raise ModelFailed("the model failed")
        return np.nan if text == b"4" else float(text) / 10

    here = bench(answer, signature=RERANKS)
    ranking = here.rank("q", "1", "2", "3", "4", "5")
    assert [(item.id, round(item.score, 6)) for item in ranking.items] == [
        ("4:5", 0.5), ("1:2", 0.2), ("0:1", 0.1), ("2:3", 0), ("3:4", 0),
    ]  # fmt: skip
    assert [item.error for item in ranking.items[3:]] == [
        "the model failed",
        "the model gave no finite score for this item",
    ]


def test_where_every_pair_fails_every_item_says_so(bench: Callable[..., Bench]) -> None:
    def answer(text: bytes) -> float:
        raise ModelFailed("the model failed")

    ranking = bench(answer, signature=RERANKS).rank("q", "1", "2")
    assert [(item.id, item.score, item.error) for item in ranking.items] == [
        ("0:1", 0, "the model failed"),
        ("1:2", 0, "the model failed"),
    ]


@pytest.mark.parametrize(
    "signature",
    [
        Signature((TensorSpec("x", "FP32", (-1,)),), EMBEDS.outputs),
        Signature((TensorSpec("text", "BYTES", (-1, 1)),), EMBEDS.outputs),
        Signature((TEXT, TensorSpec("more", "BYTES", (-1,))), EMBEDS.outputs),
        Signature((TEXT,), (TensorSpec("entities", "BYTES", (-1,)),)),
        Signature((TEXT,), (TensorSpec("scores", "FP32", (-1,)),)),
        Signature((TEXT,), (TensorSpec("label", "BYTES", (-1,)), *EMBEDS.outputs)),
    ],
)
def test_a_model_that_neither_embeds_nor_reranks_says_so(bench: Callable[..., Bench], signature: Signature) -> None:
    here = bench(signature=signature)
    with pytest.raises(FailedPrecondition) as caught:
        here.embed("1")
    assert caught.value.reason == "NOT_AN_EMBEDDING_MODEL"
    with pytest.raises(FailedPrecondition) as caught:
        here.rank("1", "2")
    assert caught.value.reason == "NOT_AN_EMBEDDING_MODEL"
    assert not here.kept.events, "a caller's mistake is no error of the model's"


def test_a_client_that_left_before_is_not_worked_for(bench: Callable[..., Bench]) -> None:
    here = bench()
    with pytest.raises(Cancelled):
        here.embed("1", on_cancel=lambda callback: False)
    assert here.session.asked == []
    assert here.event.error_code == "CANCELLED"


def test_a_client_that_leaves_half_way_ends_the_work(bench: Callable[..., Bench]) -> None:
    leave: list[Callable[[], None]] = []

    def come(callback: Callable[[], None]) -> bool:
        leave.append(callback)
        return True

    def answer(text: bytes) -> list[float]:
        leave[0]()
        return angle(text)

    here = bench(answer)
    with pytest.raises(Cancelled):
        here.embed(*map(str, range(20)), on_cancel=come)
    assert len(here.session.asked) == 1


def test_a_deadline_that_has_passed_runs_nothing(bench: Callable[..., Bench]) -> None:
    here = bench()
    with pytest.raises(DeadlineExceeded):
        here.embed("1", timeout_s=-1)
    assert here.session.asked == []


def test_an_unknown_model_leaves_an_event_too(bench: Callable[..., Bench]) -> None:
    here = bench()
    with pytest.raises(NotFound):
        here.embed("1", model="other")
    assert (here.event.model, here.event.error_code) == ("other", "NOT_FOUND")


def test_vectors_of_unlike_length_are_the_models_failure(bench: Callable[..., Bench]) -> None:
    here = bench(lambda text: [1.0] * (2 if len(text) > 1 else 3))
    with pytest.raises(ModelFailed, match="unlike length"):
        here.embed("11", "22", "33", "44", "1")


def test_a_number_for_each_text_is_no_embedding(bench: Callable[..., Bench]) -> None:
    here = bench(float)
    with pytest.raises(ModelFailed, match=r"embedding of shape \[2\]"):
        here.embed("1", "2")
    with pytest.raises(ModelFailed, match=r"embedding of shape \[2\]"):
        here.rank("1", "2")


def test_a_missing_row_is_the_models_failure(bench: Callable[..., Bench]) -> None:
    here = bench(independent=False)
    here.session.run = lambda inputs, outputs=(): {"embedding": np.zeros((2, 2), np.float32)}  # type: ignore[method-assign]
    with pytest.raises(ModelFailed, match="gave 2 rows of 'embedding' for 1 texts"):
        here.embed("1")


@pytest.mark.parametrize(
    ("context", "query"),
    [
        ({"b": "tea", "a": "books!"}, "books! tea"),
        ({"likes": ["tea", 3, True, None], "age": 42.0, "x": 0.5}, "42. tea, 3, true. 0.5"),
        ({"a": None, "b": " ", "c": "z"}, "z"),
    ],
)
def test_the_query_is_the_contexts_values_in_the_order_of_their_names(context: dict[str, Any], query: str) -> None:
    struct = Struct()
    struct.update(context)
    assert query_of(struct) == query


def test_an_items_text_is_what_is_known_of_it() -> None:
    items = items_of(
        pb.RankRequest(
            items=[
                pb.RankItem(id="1", name="Trail shoe", description="Light. Dry.", category="shoes"),
                pb.RankItem(id="2", category="tea"),
                pb.RankItem(id="3"),
            ]
        )
    )
    assert items == [Item("1", "Trail shoe. Light. Dry. shoes"), Item("2", "tea"), Item("3", "")]
