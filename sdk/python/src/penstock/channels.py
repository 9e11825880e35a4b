"""The connection to one service: its channels, and the four ways to call over them, each with a deadline."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from penstock import workers
from penstock.credentials import Address, ChannelOptions, Credentials
from penstock.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, PenstockError, from_rpc
from penstock.retries import NO_RETRIES, RetryPolicy, Tries, may_repeat, rpc_of
from penstock.rotation import Rotation
from penstock.streams import Feed, Turns, Watchdog

MEBIBYTE = 1024 * 1024
Stub = TypeVar("Stub")
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long and how large.

    Attributes:
        timeout_s: a unary call with all its retries, in seconds.
        idle_timeout_s: one wait for the other side of a stream, in seconds. Watches are never silent for over 30 s.
        max_message_bytes: a message sent or received; the server has its own limit, 16 MiB by default.
        retry: how calls that may be repeated are repeated.
    """

    timeout_s: float = 30.0
    idle_timeout_s: float = 60.0
    max_message_bytes: int = 64 * MEBIBYTE
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def __post_init__(self) -> None:
        if not (self.timeout_s > 0 and self.idle_timeout_s > 0):
            raise InvalidArgument(
                f"timeout_s is {self.timeout_s} and idle_timeout_s is {self.idle_timeout_s}; both must be over 0",
                reason="INVALID_TIMEOUT",
            )


class Connection(Generic[Stub]):
    """Channels to one service, opened at the first call. Threads may share it."""

    def __init__(
        self,
        stub: Callable[[grpc.Channel], Stub],
        address: Address,
        credentials: Credentials,
        limits: Limits,
        *,
        channels: int | None = 1,
    ) -> None:
        """Say where it goes; `channels`: None: as many as the service says that pay."""
        credentials.check(address)
        if channels is not None and channels < 1:
            raise InvalidArgument(f"connections is {channels}; 1 is the least", reason="INVALID_CONNECTIONS")
        self._make_stub = stub
        self._address = address
        self._credentials = credentials
        self._metadata = credentials.metadata if credentials.token_file is None else ()  # files are read when it opens
        self._limits = limits
        self._asks = self._may_widen = channels is None
        self._unasked: grpc.Channel | None = None
        self._count = channels or 1
        self._lock = threading.Lock()
        self._channels: Sequence[grpc.Channel] = ()
        self._stubs: Iterator[Stub] | None = None
        self._closed = False

    @property
    def stub(self) -> Stub:
        """The generated stub, of each channel in turn."""
        return next(self._stubs or self._open())

    @property
    def retry(self) -> RetryPolicy:
        """How calls that may be repeated are repeated."""
        return self._limits.retry

    @property
    def idle_timeout_s(self) -> float:
        """The longest wait for the other side of a stream, in seconds."""
        return self._limits.idle_timeout_s

    def close(self) -> None:
        """Close the channels; calls in flight end with Cancelled."""
        with self._lock:
            self._closed = True
            stubs, self._stubs = self._stubs, None
            channels, self._channels = self._channels, ()
        if isinstance(stubs, Rotation):
            stubs.close()
        for channel in channels:
            channel.close()

    def unary(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout_s: float | None = None,
        retry: bool = False,
    ) -> Response:
        """Call once, or, where it is safe, until it succeeds; the deadline spans all tries.

        Args:
            method: the stub's.
            request: its request.
            timeout_s: instead of the connection's.
            retry: repeat also an RPC that is repeated only when asked.

        Raises:
            PenstockError: the last try's.
        """
        policy = self._limits.retry if may_repeat(request, asked=retry) else NO_RETRIES
        tries = Tries(policy, self._limits.timeout_s if timeout_s is None else timeout_s)
        while True:
            try:
                with self._unless_closed():
                    return method(request, timeout=tries.remaining_s, metadata=self._metadata)
            except grpc.RpcError as error:
                tries.again(self._typed(error, request))

    def stream(
        self,
        method: grpc.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        *,
        timeout_s: float | None = None,
        idle_timeout_s: float | None = None,
    ) -> Generator[Response, None, None]:
        """Read a stream of responses, once, in one piece; leaving the iterator cancels it.

        `timeout_s` is for all of it, None for as long as it takes; `idle_timeout_s` instead of the connection's.
        """
        with self._unless_closed():
            call = method(request, timeout=timeout_s, metadata=self._metadata)
        with Watchdog(call.cancel, idle_timeout_s or self._limits.idle_timeout_s) as watchdog:
            try:
                watchdog.waiting()
                for response in call:
                    watchdog.busy()
                    yield response
                    watchdog.waiting()
            except grpc.RpcError as error:
                raise self._stalled(watchdog, request) or self._typed(error, request) from error
            finally:
                call.cancel()

    def upload(
        self,
        method: grpc.StreamUnaryMultiCallable[Request, Response],
        kind: type[Request],
        requests: Iterator[Request],
        *,
        idle_timeout_s: float | None = None,
    ) -> Response:
        """Send a stream of requests and wait for the answer. What `requests` raises is raised here.

        `idle_timeout_s` instead of the connection's, where the answer takes its time.
        """
        watchdog = Watchdog(lambda: call.cancel(), max(idle_timeout_s or 0.0, self._limits.idle_timeout_s))
        feed = Feed(requests, taken=watchdog.busy, given=watchdog.waiting)
        with self._unless_closed():
            call = method.future(feed, metadata=self._metadata)
        feed.attach(call.cancel)
        with watchdog:
            try:
                return call.result()
            except (grpc.RpcError, grpc.FutureCancelledError) as error:
                if feed.error is not None:
                    raise feed.error from None
                raise self._stalled(watchdog, kind) or self._typed(call, kind) from error
            finally:
                call.cancel()

    def exchange(
        self,
        method: grpc.StreamStreamMultiCallable[Request, Response],
        kind: type[Request],
        requests: Iterator[Request],
    ) -> Generator[Response, None, None]:
        """Send requests and read one response for each, in order. HTTP/2 flow control bounds what is on its way."""
        watchdog = Watchdog(lambda: call.cancel(), self._limits.idle_timeout_s)
        turns = Turns(watchdog)
        feed = Feed(requests, given=turns.asked)
        with self._unless_closed():
            call = method(feed, metadata=self._metadata)
        feed.attach(call.cancel)
        with watchdog:
            try:
                turns.reading()
                for response in call:
                    turns.answered()
                    yield response
                    turns.reading()
            except grpc.RpcError as error:
                if feed.error is not None:
                    raise feed.error from None
                raise self._stalled(watchdog, kind) or self._typed(error, kind) from error
            finally:
                call.cancel()

    @contextmanager
    def _unless_closed(self) -> Iterator[None]:
        """Begin a call. Where another thread closed the client since the stub was taken, grpc raises a ValueError."""
        try:
            yield
        except ValueError as error:
            if not self._closed:
                raise
            raise _closed() from error

    def _open(self) -> Iterator[Stub]:
        with self._lock:
            if self._closed:
                raise _closed()
            if self._stubs is None:
                if self._credentials.stamp():
                    self._stubs = Rotation(self._open_channels, self._credentials.stamp)
                else:
                    opened = self._open_channels()
                    self._channels = [channel for channel, _ in opened]
                    self._stubs = itertools.cycle([stub for _, stub in opened])
            stubs = self._stubs
            channel, self._unasked = self._unasked, None
        if channel is not None:  # outside the lock: the answer takes it, on whichever thread it comes
            workers.ask(channel, self._metadata, self._widen)
        return stubs

    def _open_channels(self) -> list[tuple[grpc.Channel, Stub]]:
        self._metadata = self._credentials.metadata
        opened = self._open_more(self._count)
        if self._asks:
            self._asks, self._unasked = False, opened[0][0]
        return opened

    def _open_more(self, count: int) -> list[tuple[grpc.Channel, Stub]]:
        options = self._options()
        channels = [self._credentials.open(self._address, options) for _ in range(count)]
        return [(channel, self._make_stub(channel)) for channel in channels]

    def _widen(self, count: int) -> None:
        """Have so many channels from now on, those that are open among them."""
        with self._lock:
            if self._closed:
                return
            more, self._count = count - self._count, count
            if isinstance(self._stubs, Rotation):
                self._stubs.add(lambda: self._open_more(more))
            else:
                opened = self._open_more(more)
                self._channels = [*self._channels, *(channel for channel, _ in opened)]
                present = self._stubs
                first = [] if present is None else [next(present)]
                self._stubs = itertools.cycle([*first, *(stub for _, stub in opened)])

    def _options(self) -> ChannelOptions:
        options: ChannelOptions = [
            ("grpc.max_send_message_length", self._limits.max_message_bytes),
            ("grpc.max_receive_message_length", self._limits.max_message_bytes),
            # A dead peer is noticed within 80 s, also by a call that only listens; Penstock's servers allow a ping
            # every 10 s, and without calls none is sent.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            # grpc would wait up to 120 s before it looks for a server that was gone, and retries would run dry.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 5_000),
        ]
        if self._address.loopback:
            options.append(("grpc.enable_http_proxy", 0))
        if self._count > 1 or self._may_widen:
            # Channels with equal options share one connection unless told otherwise.
            options.append(("grpc.use_local_subchannel_pool", 1))
        return options

    def _typed(self, error: Any, request: Message | type[Message]) -> PenstockError:
        kind = request if isinstance(request, type) else type(request)
        tls = self._credentials.secures(self._address)
        return from_rpc(error, rpc=rpc_of(kind)[1], target=self._address.target, tls=tls)

    def _stalled(self, watchdog: Watchdog, request: Message | type[Message]) -> PenstockError | None:
        if not watchdog.bit:
            return None
        kind = request if isinstance(request, type) else type(request)
        return DeadlineExceeded(
            f"{self._address.target} was silent for {watchdog.idle_timeout_s:g} s during {rpc_of(kind)[1]}",
            reason="STREAM_STALLED",
            retryable=True,
        )


def _closed() -> FailedPrecondition:
    return FailedPrecondition("this client is closed; make another", reason="CLIENT_CLOSED")
