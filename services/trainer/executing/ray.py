"""Ray: a run's worker is a job of its Jobs API (REST, as the dashboard serves it; known from Ray 2.9 to 2.60).

https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final
from urllib.parse import quote

from services.trainer.executing.cluster_api import Answer, ClusterApi
from services.trainer.executing.outside import Standing, Submission
from services.trainer.faults import ExecutorUnavailable, TrainingFailed

_GOING: Final = frozenset({"PENDING", "RUNNING"})
_JOBS: Final = "/api/jobs/"
TAIL_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class RayPlace:
    """One Ray cluster. A submission's name is its `submission_id`, so that the same one is made once.

    Whoever reaches the dashboard of a cluster sees the variables of its jobs, a run's token among them: it is worth
    something for this run, and as long as the run takes.
    """

    name: ClassVar[str] = "RAY"
    submits: ClassVar[bool] = True
    api: ClusterApi
    entrypoint: str
    runtime_env: Mapping[str, Any] = field(default_factory=dict)

    def submit(self, submission: Submission) -> None:
        """Have a worker begin as a job; raises TrainingFailed where Ray does not take it."""
        given = self.runtime_env.get("env_vars", {})
        resources = submission.resources
        body = {
            "entrypoint": self.entrypoint,
            "submission_id": submission.name,
            "runtime_env": {**self.runtime_env, "env_vars": {**given, **submission.environment}},
            "metadata": {"penstock_model": submission.task.model, "penstock_run": submission.task.run_id},
            "entrypoint_num_cpus": resources.cpus,
            "entrypoint_num_gpus": resources.gpus,
            **({"entrypoint_memory": resources.memory_bytes} if resources.memory_bytes else {}),
        }
        answer = self.api.call("POST", _JOBS, body)
        if answer.well:
            return
        # Ray answers 500 also where it has one of this name, by a call whose answer was lost.
        if self.standing(submission.name)[0] is not Standing.UNKNOWN:
            return
        word = answer.word.replace(submission.token, "***")
        if 400 <= answer.status < 500 and answer.status not in (401, 403, 429):
            raise TrainingFailed(f"Ray does not take the run: {word}")
        raise ExecutorUnavailable(f"Ray did not take the run: {word}")

    def standing(self, name: str) -> tuple[Standing, str]:
        """Say how a job stands, by Ray's own word."""
        answer = self.api.call("GET", _path(name))
        if answer.status == 404:
            return Standing.UNKNOWN, "Ray knows no such job"
        status = _well(answer).content().get("status")
        return (Standing.GOING if status in _GOING else Standing.ENDED), f"Ray says {status}"

    def stop(self, name: str) -> None:
        """End a job's processes."""
        answer = self.api.call("POST", _path(name) + "/stop")
        if answer.status != 404:
            _well(answer)

    def log_tail(self, name: str) -> bytes:
        """Give the end of what a job printed."""
        answer = self.api.call("GET", _path(name) + "/logs")
        logs = answer.content().get("logs") if answer.well else None
        return logs.encode()[-TAIL_BYTES:] if isinstance(logs, str) else b""


def _path(name: str) -> str:
    return _JOBS + quote(name, safe="")


def _well(answer: Answer) -> Answer:
    if not answer.well:
        raise ExecutorUnavailable(f"Ray answered {answer.word}")
    return answer
