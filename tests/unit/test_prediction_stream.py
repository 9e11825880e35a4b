"""A stream of predictions: its order, its bound, and every way in which it can end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

import pytest

from services.common.errors import Cancelled, InvalidArgument, Unavailable
from services.inference.prediction import Done, Outcome
from services.inference.prediction_stream import PredictionStream
from tests.serving import wait_until


class Model:
    """Takes requests and answers them when the test says so."""

    def __init__(self) -> None:
        self.waiting: dict[int, Done] = {}
        self.cancelled: set[int] = set()

    def begin(self, request: int, done: Done) -> Callable[[], None]:
        if request < 0:
            raise InvalidArgument("below 0")
        self.waiting[request] = done
        return lambda: self.cancelled.add(request)

    def answer(self, *requests: int) -> None:
        for request in requests:
            self.waiting.pop(request)(ValueError(str(request)))


def written(request: int, outcome: Outcome) -> str:
    return f"{request}:{outcome}"


class Client:
    """Sends what the test puts in; `None` ends it. Knows how many requests were taken from it."""

    def __init__(self) -> None:
        self.sent: SimpleQueue[int | Exception | None] = SimpleQueue()
        self.taken_count = 0
        self.leave: Callable[[], None] = lambda: None

    def send(self, *requests: int | Exception | None) -> None:
        for request in requests:
            self.sent.put(request)

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        request = self.sent.get()
        if request is None:
            raise StopIteration
        if isinstance(request, Exception):
            raise request
        self.taken_count += 1
        return request

    def on_cancel(self, leave: Callable[[], None]) -> bool:
        self.leave = leave
        return True


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client()
    yield client
    client.send(None)


def no_reader() -> bool:
    return not any(thread.name == "stream-reader" for thread in threading.enumerate())


def stream_of(model: Model, *, max_in_flight: int = 4) -> PredictionStream[int, str]:
    return PredictionStream(model.begin, written, max_in_flight=max_in_flight)


def test_answers_come_in_the_order_of_the_requests(model: Model, client: Client) -> None:
    answers = stream_of(model).answers(client, on_cancel=client.on_cancel)
    client.send(1, 2, 3, None)
    collected: list[str] = []
    reader = threading.Thread(target=lambda: collected.extend(answers))
    reader.start()
    wait_until(lambda: len(model.waiting) == 3)
    model.answer(3, 2)
    assert collected == []
    model.answer(1)
    reader.join()
    assert collected == ["1:1", "2:2", "3:3"]


def test_a_request_that_cannot_be_begun_fails_by_itself(model: Model, client: Client) -> None:
    answers = stream_of(model).answers(client, on_cancel=client.on_cancel)
    client.send(-1, 1, None)
    assert next(answers) == "-1:below 0"
    model.answer(1)
    assert list(answers) == ["1:1"]


def test_no_more_is_taken_than_may_be_in_flight_until_an_answer_is_taken(model: Model, client: Client) -> None:
    answers = stream_of(model, max_in_flight=2).answers(client, on_cancel=client.on_cancel)
    client.send(-1, -2, -3, -4, -5, None)
    assert next(answers) == "-1:below 0"
    # The one that was given out counts until the next is asked for; one more is taken with each.
    wait_until(lambda: client.taken_count == 2)
    assert next(answers) == "-2:below 0"
    wait_until(lambda: client.taken_count == 3)
    assert len(list(answers)) == 3
    assert client.taken_count == 5


def test_an_error_of_the_requests_comes_after_the_answers_to_those_before(model: Model, client: Client) -> None:
    answers = stream_of(model).answers(client, on_cancel=client.on_cancel)
    client.send(1, InvalidArgument("malformed"))
    collected: list[str] = []

    def read() -> None:
        with pytest.raises(InvalidArgument, match="malformed"):
            collected.extend(answers)

    reader = threading.Thread(target=read)
    reader.start()
    wait_until(lambda: 1 in model.waiting)
    model.answer(1)
    reader.join()
    assert collected == ["1:1"]


def test_a_drain_takes_nothing_more_and_answers_what_was_taken(model: Model, client: Client) -> None:
    stream = stream_of(model)
    answers = stream.answers(client, on_cancel=client.on_cancel)
    client.send(-1, 2)
    assert next(answers) == "-1:below 0"
    wait_until(lambda: 2 in model.waiting)
    stream.end(Unavailable("draining"))
    client.send(3)  # on its way when the drain began: the client is told that it was not answered
    wait_until(lambda: client.taken_count == 3)
    wait_until(no_reader)
    model.answer(2)
    assert next(answers) == "2:2"
    with pytest.raises(Unavailable, match="draining"):
        next(answers)
    assert 3 not in model.waiting


def test_a_drain_before_the_first_request_ends_it_at_once(model: Model, client: Client) -> None:
    stream = stream_of(model)
    stream.end(Unavailable("draining"))
    with pytest.raises(Unavailable):
        next(stream.answers(client, on_cancel=client.on_cancel))


def test_a_client_that_goes_away_cancels_what_waits_and_frees_the_thread(model: Model, client: Client) -> None:
    answers = stream_of(model, max_in_flight=2).answers(client, on_cancel=client.on_cancel)
    client.send(-1, 1, 2, 3)
    assert next(answers) == "-1:below 0"
    ended = threading.Thread(target=lambda: list(answers))
    ended.start()
    wait_until(lambda: set(model.waiting) == {1, 2})
    client.leave()
    ended.join(60)
    assert not ended.is_alive(), "the writer still waits for answers that nobody wants"
    assert model.cancelled == {1, 2}
    model.answer(1, 2)  # too late, and no harm
    wait_until(no_reader)


def test_a_client_that_has_gone_before_it_began_is_not_read_from(model: Model, client: Client) -> None:
    assert list(stream_of(model).answers(client, on_cancel=lambda _: False)) == []
    assert client.taken_count == 0


def test_closing_the_answers_cancels_what_waits(model: Model, client: Client) -> None:
    answers = stream_of(model).answers(client, on_cancel=client.on_cancel)
    client.send(-1, 1, 2)
    assert next(answers) == "-1:below 0"
    wait_until(lambda: set(model.waiting) == {1, 2})
    answers.close()  # type: ignore[attr-defined] # a generator, as grpc's kit knows
    assert model.cancelled == {1, 2}


def test_an_unforeseen_error_of_the_requests_reaches_whoever_reads(model: Model, client: Client) -> None:
    client.send(RuntimeError("a defect"))
    with pytest.raises(RuntimeError, match="a defect"):
        next(stream_of(model).answers(client, on_cancel=client.on_cancel))


def test_the_error_of_a_client_that_went_away_is_raised(model: Model, client: Client) -> None:
    client.send(Cancelled("gone"))
    with pytest.raises(Cancelled):
        next(stream_of(model).answers(client, on_cancel=client.on_cancel))
