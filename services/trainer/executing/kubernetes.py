"""Kubernetes: a run's worker is a Job of its own (batch/v1), its token in a Secret that goes with the Job.

Plain REST with a service account's token, as a pod has it: five calls need no client package. The account may create,
get and delete Jobs, create Secrets, list pods and read their logs, in one namespace.
https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final
from urllib.parse import quote, urlencode

from services.trainer.executing.cluster_api import Answer, ClusterApi
from services.trainer.executing.outside import Standing, Submission
from services.trainer.faults import ExecutorUnavailable, TrainingFailed

TOKEN_VARIABLE: Final = "PENSTOCK_RUN_TOKEN"  # noqa: S105 - a variable's name
TAIL_LINES: Final = 500
KEPT_S: Final = 3_600
"""How long a Job that has ended can be looked at; then the cluster deletes it, its pod and its Secret."""
WORKER_BYTES: Final = 512 * 1024**2
"""Of memory, for the worker beside the recipe's processes."""
COMMAND: Final = ("python", "-m", "services.trainer.worker")


@dataclass(frozen=True, slots=True)
class KubernetesPlace:
    """One namespace of a cluster. A submission's name is its Job's and its Secret's, so that the same is made once.

    `pod`: more of the pod's specification; it may not say what its containers are.
    """

    name: ClassVar[str] = "KUBERNETES"
    submits: ClassVar[bool] = True
    api: ClusterApi
    namespace: str
    image: str
    service_account: str = ""
    pod: Mapping[str, Any] = field(default_factory=dict)

    def submit(self, submission: Submission) -> None:
        """Have a worker begin as a Job; raises TrainingFailed where the cluster does not take it."""
        answer = self.api.call("POST", self._jobs(), self._job(submission))
        if answer.status == 409:  # by a call whose answer was lost
            answer = self.api.call("GET", self._jobs(submission.name))
        job = _taken(answer, "Job").content()
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": submission.name,
                "labels": _labels(submission),
                # It goes with its Job. The pod waits for it: it is made last, for only now its owner is known.
                "ownerReferences": [
                    {
                        "apiVersion": "batch/v1",
                        "kind": "Job",
                        "name": submission.name,
                        "uid": job.get("metadata", {}).get("uid", ""),
                    }
                ],
            },
            "immutable": True,
            "stringData": {TOKEN_VARIABLE: submission.token},
        }
        answer = self.api.call("POST", f"/api/v1/namespaces/{self.namespace}/secrets", secret)
        if answer.status != 409:
            _taken(answer, "Secret")

    def standing(self, name: str) -> tuple[Standing, str]:
        """Say how a Job stands, by its conditions."""
        answer = self.api.call("GET", self._jobs(name))
        if answer.status == 404:
            return Standing.UNKNOWN, "Kubernetes knows no such Job"
        status = _well(answer).content().get("status", {})
        for condition in status.get("conditions", ()):
            if condition.get("type") in ("Complete", "Failed") and condition.get("status") == "True":
                why = condition.get("message") or condition.get("reason") or ""
                return Standing.ENDED, f"Kubernetes says {condition['type']} {why}".rstrip()[:500]
        return Standing.GOING, "Kubernetes says that it is active"

    def stop(self, name: str) -> None:
        """Delete a Job, its pod and its Secret."""
        answer = self.api.call("DELETE", self._jobs(name) + "?propagationPolicy=Background")
        if answer.status != 404:
            _well(answer)

    def log_tail(self, name: str) -> bytes:
        """Give the end of what a Job's pod printed."""
        pods = f"/api/v1/namespaces/{self.namespace}/pods"
        found = self.api.call("GET", f"{pods}?{urlencode({'labelSelector': f'job-name={name}'})}")
        items = found.content().get("items", ()) if found.well else ()
        for pod in items:
            asked = f"{pods}/{quote(pod['metadata']['name'], safe='')}/log?tailLines={TAIL_LINES}"
            answer = self.api.call("GET", asked)
            if answer.well:
                return answer.text.encode()
        return b""

    def _jobs(self, name: str = "") -> str:
        path = f"/apis/batch/v1/namespaces/{self.namespace}/jobs"
        return f"{path}/{quote(name, safe='')}" if name else path

    def _job(self, submission: Submission) -> dict[str, Any]:
        resources, task = submission.resources, submission.task
        amounts: dict[str, str] = {
            "cpu": f"{resources.cpus:g}",
            "memory": str(resources.memory_bytes or task.memory_limit_bytes + WORKER_BYTES),
        }
        accelerators = {"nvidia.com/gpu": str(math.ceil(resources.gpus))} if resources.gpus else {}
        plain = {name: value for name, value in submission.environment.items() if name != TOKEN_VARIABLE}
        variables: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in plain.items()]
        secret = {"secretKeyRef": {"name": submission.name, "key": TOKEN_VARIABLE}}
        container = {
            "name": "worker",
            "image": self.image,
            "command": list(COMMAND),
            "env": [*variables, {"name": TOKEN_VARIABLE, "valueFrom": secret}],
            "resources": {"requests": amounts, "limits": {"memory": amounts["memory"], **accelerators}},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
        account = {"serviceAccountName": self.service_account} if self.service_account else {}
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": submission.name, "labels": _labels(submission)},
            "spec": {
                # A worker that is lost is the trainer's to replace: it knows the last checkpoint.
                "backoffLimit": 0,
                "ttlSecondsAfterFinished": KEPT_S,
                "template": {
                    "metadata": {"labels": _labels(submission)},
                    "spec": {
                        **self.pod,
                        **account,
                        "restartPolicy": "Never",
                        "automountServiceAccountToken": False,
                        "containers": [container],
                    },
                },
            },
        }


def in_cluster_address() -> str:
    """Say where the API of the cluster answers in which this process runs; '' where it runs in none."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}" if host else ""


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A folder as a pod's service account has it; its token is written anew before it runs out."""

    folder: Path

    def token(self) -> str:
        """Read the token; raises OSError."""
        return (self.folder / "token").read_text().strip()

    def ca_file(self) -> Path | None:
        """Find the certificates that vouch for the cluster; None: the system's do."""
        found = self.folder / "ca.crt"
        return found if found.exists() else None

    def namespace(self) -> str:
        """Say where this pod is; `default` where nobody says."""
        found = self.folder / "namespace"
        return found.read_text().strip() if found.exists() else "default"


def _labels(submission: Submission) -> dict[str, str]:
    return {"app.kubernetes.io/name": "penstock-training-worker", "penstock/run": submission.task.run_id}


def _taken(answer: Answer, what: str) -> Answer:
    if answer.well:
        return answer
    said = answer.content().get("message", answer.word)
    if answer.status in (400, 403, 404, 405, 413, 422):
        raise TrainingFailed(f"Kubernetes does not take the run's {what}: {str(said)[:500]}")
    raise ExecutorUnavailable(f"Kubernetes did not take the run's {what}: {str(said)[:500]}")


def _well(answer: Answer) -> Answer:
    if not answer.well:
        raise ExecutorUnavailable(f"Kubernetes answered {answer.word}")
    return answer
