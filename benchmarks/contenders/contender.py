"""A server that is measured, and how it is seen to answer right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import grpc
import numpy as np
from numpy.typing import NDArray

from benchmarks.load import Rpc
from services.inference.oip import open_inference_pb2 as pb
from services.inference.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub

PATH = "/inference.GRPCInferenceService/ModelInfer"
CALL_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Question:
    """One row for the model, and what scikit-learn answers."""

    row: NDArray[np.float32]
    label: int
    probabilities: NDArray[np.float32]

    @property
    def message(self) -> pb.ModelInferRequest:
        """The question as the Open Inference Protocol puts it."""
        request = pb.ModelInferRequest(model_name="iris", raw_input_contents=[self.row.tobytes()])
        request.inputs.add(name="X", datatype="FP32", shape=[1, len(self.row)])
        return request


@dataclass(frozen=True, slots=True)
class Contender:
    """A server that runs.

    Attributes:
        name: as the table has it.
        pid: its process.
        address: where it listens.
        question: what it is asked.
        metadata: what each request bears beside it.
        answered: how many requests it has answered well, by its own count; None where it keeps none.
        captures: whether it sends an event to monitoring for each.
        settle: waits until nothing of the last window is left to do, and gives the seconds that took.
    """

    name: str
    pid: int
    address: str
    question: Question
    metadata: Mapping[str, str] = field(default_factory=dict)
    answered: Callable[[], int] | None = None
    captures: bool = False
    settle: Callable[[], float] = lambda: 0.0

    def rpc(self) -> Rpc:
        """Ask once, compare with scikit-learn, and describe the call to the load generator.

        Ends the run with a sentence if the answer is wrong.
        """
        request = self.question.message
        with grpc.insecure_channel(self.address) as channel:
            response = GRPCInferenceServiceStub(channel).ModelInfer(
                request, timeout=CALL_TIMEOUT_S, metadata=tuple(self.metadata.items()), wait_for_ready=True
            )
        label = np.frombuffer(response.raw_output_contents[0], np.int64)
        probabilities = np.frombuffer(response.raw_output_contents[1], np.float32)
        if label[0] != self.question.label or not np.allclose(probabilities, self.question.probabilities, atol=1e-5):
            raise SystemExit(f"{self.name} answers {label[0]} {probabilities}, which is wrong")
        return Rpc(self.address, PATH, request.SerializeToString(), self.metadata, response.ByteSize())
