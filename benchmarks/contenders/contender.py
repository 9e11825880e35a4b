"""A server that is measured, and how it is seen to answer right."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import numpy as np
import psutil

from benchmarks.load import Call
from benchmarks.workloads import DTYPES, Workload
from services.inference.oip import open_inference_pb2 as pb
from services.inference.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub

PATH = "/inference.GRPCInferenceService/ModelInfer"
CALL_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that runs.

    Attributes:
        name: as the table has it.
        pids: the processes that were started for it; their children count with them.
        ask: asks once, ends the run with a sentence if the answer is wrong, and describes the call.
        start_s: from its start to its first right answer, in seconds.
        answered: how many requests it has answered well, by its own count; None where it keeps none.
        captures: whether it sends an event to monitoring for each.
        settle: waits until nothing of the last window is left to do, and gives the seconds that took.
        pins_itself: it keeps to cores of its own choice.
        address: where it listens, where others than `ask` want to know.
        counts: its metrics, summed over their labels, where it has any.
    """

    name: str
    pids: Sequence[int]
    ask: Callable[[], Call]
    start_s: float = 0.0
    answered: Callable[[], int] | None = None
    captures: bool = False
    settle: Callable[[], float] = lambda: 0.0
    pins_itself: bool = False
    address: str = ""
    counts: Callable[[], Mapping[str, float]] = dict

    @property
    def processes(self) -> list[psutil.Process]:
        """All of its processes, those that it started too."""
        roots = [psutil.Process(pid) for pid in self.pids]
        return [*roots, *(child for root in roots for child in root.children(recursive=True))]

    @property
    def resident_bytes(self) -> int:
        """The memory of all its processes; what two share counts twice."""
        return sum(process.memory_info().rss for process in self.processes)


@dataclass(frozen=True, slots=True)
class GrpcDoor:
    """A server's address where it speaks the Open Inference Protocol."""

    server: str
    address: str
    workload: Workload
    metadata: Mapping[str, str] = field(default_factory=dict)

    def ask(self) -> Call:
        """Ask once; see Contender."""
        message = self.workload.grpc_message
        with grpc.insecure_channel(self.address, options=[("grpc.max_receive_message_length", -1)]) as channel:
            response = GRPCInferenceServiceStub(channel).ModelInfer(
                pb.ModelInferRequest.FromString(message),
                timeout=CALL_TIMEOUT_S,
                metadata=tuple(self.metadata.items()),
                wait_for_ready=True,
            )
        raws = zip(response.outputs, response.raw_output_contents, strict=True)
        self.workload.check(
            self.server,
            {
                output.name: np.frombuffer(raw, DTYPES[output.datatype]).reshape(output.shape)
                for output, raw in raws
                if output.datatype in DTYPES
            },
        )
        return Call.grpc(f"http://{self.address}{PATH}", message, self.metadata, response.ByteSize())


@dataclass(frozen=True, slots=True)
class JsonDoor:
    """A server's address where it takes and gives JSON over HTTP/1.1."""

    server: str
    url: str
    workload: Workload

    def ask(self) -> Call:
        """Ask once; see Contender."""
        message = self.workload.json_message
        request = urllib.request.Request(self.url, message, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=CALL_TIMEOUT_S) as response:
            body = response.read()
        answers = {name: np.asarray(value) for name, value in json.loads(body).items()}
        self.workload.check(self.server, answers)
        return Call.json(self.url, message, len(body))
