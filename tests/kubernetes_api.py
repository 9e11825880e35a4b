"""A stand-in for the API of a Kubernetes cluster: no cluster runs where these tests do.

It takes, checks and gives what `batch/v1` Jobs, Secrets and pods look like, and does for a Job what a kubelet would:
once its Secret is there, it starts the Job's command with the variables of its pod, and says how that ended.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
TOKEN = "a service account's token"


@dataclass
class Cluster:
    """What a namespace holds. `namespace` is all there is."""

    address: str
    folder: Path
    namespace: str = "training"
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    broken: int = 0
    """So many requests are answered 503."""
    lost: int = 0
    """So many creations are done, and their answers lost."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def credentials(self, *, token: str = TOKEN) -> Path:
        """Make a folder as a pod's service account has it."""
        folder = self.folder / "serviceaccount"
        folder.mkdir(exist_ok=True)
        (folder / "token").write_text(token)
        (folder / "namespace").write_text(self.namespace)
        return folder

    def create_job(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Take a Job, and run it if its Secret is there."""
        name = body["metadata"]["name"]
        spec = body["spec"]["template"]["spec"]
        problems = _problems(body)
        if problems:
            return 422, {"kind": "Status", "message": f'Job.batch "{name}" is invalid: {problems}'}
        if name in self.jobs:
            return 409, {"kind": "Status", "message": f'jobs.batch "{name}" already exists'}
        if spec["containers"][0]["image"] == "forbidden":
            return 403, {"kind": "Status", "message": "jobs.batch is forbidden: exceeded quota"}
        uid = f"uid-of-{name}"
        self.jobs[name] = {**body, "metadata": {**body["metadata"], "uid": uid}, "status": {"active": 1}}
        return 201, self.jobs[name]

    def create_secret(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Take a Secret, and run the Job that waits for it."""
        name = body["metadata"]["name"]
        if name in self.secrets:
            return 409, {"kind": "Status", "message": f'secrets "{name}" already exists'}
        (owner,) = body["metadata"]["ownerReferences"]
        if owner.get("uid") != f"uid-of-{name}" or {owner["apiVersion"], owner["kind"]} != {"batch/v1", "Job"}:
            return 422, {"kind": "Status", "message": "metadata.ownerReferences is invalid"}
        data = {key: base64.b64encode(value.encode()).decode() for key, value in body.pop("stringData").items()}
        self.secrets[name] = {**body, "data": data}
        self._start(name)
        return 201, self.secrets[name]

    def job(self, name: str) -> tuple[int, dict[str, Any]]:
        """Give a Job as it stands."""
        found = self.jobs.get(name)
        if found is None:
            return 404, {"kind": "Status", "message": f'jobs.batch "{name}" not found'}
        process = self.processes.get(name)
        code = None if process is None else process.poll()
        if code is not None:
            condition = {"type": "Complete", "status": "True"}
            if code:
                condition = {
                    "type": "Failed",
                    "status": "True",
                    "reason": "BackoffLimitExceeded",
                    "message": "it failed",
                }
            found["status"] = {"conditions": [{"type": "SuccessCriteriaMet", "status": "True"}, condition]}
        return 200, found

    def delete_job(self, name: str) -> tuple[int, dict[str, Any]]:
        """Delete a Job with what belongs to it."""
        status, found = self.job(name)
        if status == 200:
            del self.jobs[name]
            self.secrets.pop(name, None)
            if name in self.processes:
                self.processes[name].terminate()
        return status, found

    def pods(self, selector: str) -> dict[str, Any]:
        """List the pods of a Job."""
        name = selector.removeprefix("job-name=")
        return {"kind": "PodList", "items": [{"metadata": {"name": f"{name}-x"}}] if name in self.processes else []}

    def _start(self, name: str) -> None:
        container = self.jobs[name]["spec"]["template"]["spec"]["containers"][0]
        variables = {each["name"]: self._value(each) for each in container["env"]}
        python, *arguments = container["command"]
        assert python == "python"
        with (self.folder / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, *arguments], cwd=ROOT, env={**os.environ, **variables}, stdout=log, stderr=log
            )

    def _value(self, variable: dict[str, Any]) -> str:
        if "value" in variable:
            return str(variable["value"])
        reference = variable["valueFrom"]["secretKeyRef"]
        return base64.b64decode(self.secrets[reference["name"]]["data"][reference["key"]]).decode()


def _problems(job: dict[str, Any]) -> str:
    """Say what a cluster would not take of a Job."""
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    labels = {**job["metadata"].get("labels", {}), **job["spec"]["template"]["metadata"]["labels"]}
    checks = {
        "apiVersion": (job["apiVersion"], job["kind"]) == ("batch/v1", "Job"),
        "metadata.name": bool(NAME.fullmatch(job["metadata"]["name"])),
        "labels": all(LABEL.fullmatch(key) and LABEL.fullmatch(value) for key, value in labels.items()),
        "restartPolicy": pod["restartPolicy"] in ("Never", "OnFailure"),
        "image": isinstance(container["image"], str) and bool(container["image"]),
        "command": all(isinstance(word, str) for word in container["command"]),
        "env": all(isinstance(each.get("value", ""), str) for each in container["env"]),
        "limits": all(isinstance(amount, str) for amount in container["resources"]["limits"].values()),
        "backoffLimit": isinstance(job["spec"]["backoffLimit"], int),
    }
    return ", ".join(name for name, fine in checks.items() if not fine)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        cluster = self.server.cluster
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        with cluster.lock:
            cluster.asked.append((self.command, self.path))
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self._give(401, {"kind": "Status", "message": "Unauthorized"})
                return
            if cluster.broken:
                cluster.broken -= 1
                self._give(503, {"kind": "Status", "message": "the apiserver starts"})
                return
            status, content = self._done(cluster, body)
            if cluster.lost and self.command == "POST":
                cluster.lost -= 1
                self.connection.close()
                return
        self._give(status, content)

    def _done(self, cluster: Cluster, body: dict[str, Any]) -> tuple[int, Any]:
        url = urlsplit(self.path)
        jobs = f"/apis/batch/v1/namespaces/{cluster.namespace}/jobs"
        core = f"/api/v1/namespaces/{cluster.namespace}"
        name = url.path.rpartition("/")[2]
        match self.command, url.path:
            case "POST", path if path == jobs:
                return cluster.create_job(body)
            case "POST", path if path == f"{core}/secrets":
                return cluster.create_secret(body)
            case "GET", path if path.startswith(f"{jobs}/"):
                return cluster.job(name)
            case "DELETE", path if path.startswith(f"{jobs}/"):
                assert parse_qs(url.query) == {"propagationPolicy": ["Background"]}, "else its pod stays"
                return cluster.delete_job(name)
            case "GET", path if path == f"{core}/pods":
                return 200, cluster.pods(parse_qs(url.query)["labelSelector"][0])
            case "GET", path if path.startswith(f"{core}/pods/") and path.endswith("/log"):
                pod = path.split("/")[-2].removesuffix("-x")
                return 200, (cluster.folder / f"{pod}.log").read_text()
        return 404, {"kind": "Status", "message": "the server could not find the requested resource"}

    def do_POST(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def _give(self, status: int, content: Any) -> None:
        said = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    cluster: Cluster

    def handle_error(self, *_: object) -> None:
        """An answer that is lost is what some tests are about."""


@contextmanager
def cluster_api(folder: Path) -> Iterator[Cluster]:
    """Serve on a port of its own, and end all that it has started."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.cluster = Cluster(f"http://127.0.0.1:{server.server_address[1]}", folder)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server.cluster
        finally:
            server.shutdown()
            for process in server.cluster.processes.values():
                process.kill()
                process.wait(60)
            thread.join()
