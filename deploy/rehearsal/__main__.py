"""Rehearses `docker build` and `docker compose up` where no engine runs. By hand, as root, on Debian or Ubuntu:

    apt-get install debootstrap postgresql && go install github.com/minio/minio@latest
    .venv/bin/python -m deploy.rehearsal /var/tmp/rehearsal [--tls]

It takes what is committed, and runs the Dockerfile's own instructions on a fresh Debian root (debootstrap's, in place
of python:3.11-slim-bookworm). Then it starts what docker-compose.yml says, in its order, with its environment, secrets
and volumes: an unprivileged user without capabilities, a read-only root, a network with nothing else in it. PostgreSQL
and MinIO are this machine's own. It registers a model, predicts, and stops everything in order.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from .containers import Container
from .images import Builder, Image

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("registry", "validator", "inference", "monitoring", "cli")
SUITE = "bookworm"
INSIDE = "PENSTOCK_REHEARSAL_INSIDE"
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
LOCALE_CHECK = "import locale; locale.setlocale(locale.LC_ALL, 'en_US.UTF-8')"
CAGE_CHECK = """
import os, pathlib, sys
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/self/status").read_text().splitlines())
assert os.getuid() == os.getgid() == 10001, os.getuid()
assert int(status["CapEff"], 16) == 0 == int(status["CapBnd"], 16) and status["NoNewPrivs"].strip() == "1"
for folder in ("/", "/app", "/opt/penstock", "/etc"):
    try:
        pathlib.Path(folder, "written").touch()
    except OSError:
        continue
    sys.exit(f"{folder} can be written")
stale = [str(p) for p in pathlib.Path("/app").rglob("*.py") if not list(p.parent.glob(f"__pycache__/{p.stem}.*.pyc"))]
assert not stale, stale
"""


def main() -> None:
    """Build, start, use, stop; any failure ends it with an exception or a sentence."""
    work = Path(sys.argv[1]).resolve()
    work.mkdir(parents=True, exist_ok=True)
    if INSIDE not in os.environ:
        _freeze(work / "context")
        # Mounts and, once all is built, the network are ours alone, and vanish with us.
        sys.exit(subprocess.run(["unshare", "--mount", sys.executable, "-m", __package__, *sys.argv[1:]],
                                env={**os.environ, INSIDE: "build"}, cwd=ROOT, check=False).returncode)  # fmt: skip
    images = _build(work)
    if os.environ[INSIDE] == "build":
        for target, image in images.items():
            print(f"{target}: {image.size_bytes / 1e6:.0f} MB above the base image")
        sys.exit(subprocess.run(["unshare", "--net", sys.executable, "-m", __package__, *sys.argv[1:]],
                                env={**os.environ, INSIDE: "run"}, cwd=ROOT, check=False).returncode)  # fmt: skip
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Rehearsal(work, images).play()


def _freeze(context: Path) -> None:
    """Take the last commit, so that nothing changes on the way."""
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir()
    with subprocess.Popen(["git", "archive", "HEAD"], cwd=ROOT, stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", context], stdin=archive.stdout, check=True)


def _build(work: Path) -> dict[str, Image]:
    base = work / "base"
    if not (work / "base.done").exists():
        shutil.rmtree(base, ignore_errors=True)
        packages = "python3,python3-venv,python3-pip,ca-certificates,netbase,tzdata"
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={packages}", SUITE, str(base)], check=True)
        for name in ("python", "python3"):
            (base / "usr/local/bin" / name).symlink_to("/usr/bin/python3")
        (work / "base.done").touch()
    context = work / "context"
    builder = Builder(context / "deploy/Dockerfile", context, base, work)
    return {target: builder.build(target) for target in TARGETS}


class Rehearsal:
    """One start of the compose file, from nothing."""

    def __init__(self, work: Path, images: dict[str, Image]) -> None:
        self._images = images
        self._context = work / "context"
        self._folder = work / "run"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        self._secrets = self._folder / "secrets"
        os.environ["PENSTOCK_SECRETS"] = str(self._secrets)
        self._services = self._read("docker-compose.yml")
        self._with_tls = "--tls" in sys.argv
        if self._with_tls:
            for name, more in self._read("deploy/compose.tls.yml").items():
                self._services[name]["environment"] |= more["environment"]
                self._services[name]["volumes"] += more["volumes"]
        (self._folder / "hosts").write_text(f"127.0.0.1 localhost {' '.join(self._services)}\n")
        self._model = self._folder / "model.onnx"

    def play(self) -> None:
        """Go through it as docs/deployment.md does."""
        subprocess.run([self._context / "deploy/make-secrets", self._secrets], check=True)
        if self._with_tls:
            subprocess.run([self._context / "deploy/make-certificates"], check=True)
        Path("/run/secrets").mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", self._secrets, "/run/secrets"], check=True)
        subprocess.run(["mount", "--bind", self._folder / "hosts", "/etc/hosts"], check=True)
        self._model.write_bytes(_model())
        with self._postgres(), self._s3():
            self._jobs()
            token = self._keys()
            self._services_run(token)
        print("the rehearsal went well")

    def _read(self, name: str) -> dict[str, Any]:
        text = (self._context / name).read_text()
        known = _VARIABLE.sub(lambda match: os.environ.get(match[1], match[2]), text)
        return dict(yaml.safe_load(known)["services"])

    def _jobs(self) -> None:
        for name in ("s3-volume", "bucket", "bucket", "migrate-registry", "migrate-monitoring", "migrate-monitoring"):
            done = self._container(name).run()
            assert done.returncode == 0, (name, done.stdout, done.stderr)
            print(f"{name}: {done.stderr.strip().splitlines()[-1] if done.stderr else 'nothing to do'}")

    def _keys(self) -> str:
        def create(name: str, role: str) -> str:
            return _answer(self._container("cli").run("key", "create", name, "--role", role)).strip()

        token = create("ada", "admin")
        for service in ("inference", "monitoring"):
            (self._secrets / f"{service}_token").write_text(create(service, "operator") + "\n")
        return token

    def _services_run(self, token: str) -> None:
        running: list[tuple[Container, subprocess.Popen[str]]] = []
        with ExitStack() as stack:
            for name in ("registry", "validator", "monitoring", "inference"):
                container = self._container(name)
                process = container.start(log=self._folder / f"{name}.log")
                stack.callback(self._end, process)
                running.append((container, process))
                assert container.becomes_healthy(), (self._folder / f"{name}.log").read_text()[-3000:]
                self._inspect(container)
                print(f"{name}: healthy", flush=True)
            self._use(token)
            for container, process in reversed(running):
                code = container.stop(process)
                assert code == 0, (container.name, code, (self._folder / f"{container.name}.log").read_text()[-3000:])
                print(f"{container.name}: ended in order")

    @staticmethod
    def _end(process: subprocess.Popen[str]) -> None:
        if process.poll() is None:
            Container.kill(process)
            process.wait()

    def _inspect(self, container: Container) -> None:
        caged = container.run("python", "-c", CAGE_CHECK, entrypoint=False)
        assert caged.returncode == 0, (container.name, caged.stderr)
        for tool in ("pip", "gcc", "cc"):
            found = container.run("sh", "-c", f"command -v {tool}", entrypoint=False)
            assert found.returncode != 0 or self._images["cli"].layers[-1].joinpath("usr/bin", tool).exists(), tool
        if container.name in ("inference", "validator"):
            spoken = container.run("python", "-c", LOCALE_CHECK, entrypoint=False)
            assert spoken.returncode == 0, spoken.stderr

    def _use(self, token: str) -> None:
        def cli(*words: str) -> str:
            container = self._container("cli")
            container.service["environment"]["PENSTOCK_TOKEN"] = token
            container.service["volumes"].append(f"{self._model}:/tmp/model.onnx:ro")
            return _answer(container.run(*words))

        print(cli("model", "register", "tiny", "/tmp/model.onnx", "--version", "1.0.0").strip())
        cli("model", "promote", "tiny", "1.0.0", "--to", "production", "--note", "first", "--approver", "ada")
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = json.loads(cli("predict", "tiny", '{"x": [1, 2]}', "--json"))
                break
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        print(f"predicted: {json.dumps(answer)[:200]}")
        while not json.loads(cli("events", "--json")):
            assert time.monotonic() < deadline, "the event never arrived"
            time.sleep(0.5)
        print("its event is stored")

    def _container(self, name: str) -> Container:
        service = json.loads(json.dumps(self._services[name]))
        return Container(name, self._images[service["build"]["target"]], service, self._folder, self._secrets)

    @contextmanager
    def _postgres(self) -> Iterator[None]:
        service = self._services["postgres"]
        binaries = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
        data = self._folder / "postgres"
        data.mkdir()
        shutil.chown(data, "postgres")
        self._folder.chmod(0o711)
        as_postgres: list[str | Path] = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        initdb = [*as_postgres, binaries / "initdb", "-D", data, "--auth-host=scram-sha-256", "--auth-local=trust"]
        options = service["environment"]["POSTGRES_INITDB_ARGS"].split()
        subprocess.run([*initdb, *options], check=True, stdout=subprocess.DEVNULL, cwd="/")
        command: list[str | Path] = [
            *as_postgres,
            binaries / "postgres",
            "-D",
            data,
            "-k",
            data,
            *service["command"][1:],
        ]
        process = subprocess.Popen(command, stderr=(self._folder / "postgres.log").open("w"), cwd="/")
        try:
            psql: list[str | Path] = [
                binaries / "psql",
                "-h",
                data,
                "-U",
                "postgres",
                "--no-psqlrc",
                "-v",
                "ON_ERROR_STOP=1",
                "-q",
            ]
            deadline = time.monotonic() + 60
            while subprocess.run([*psql, "-c", "SELECT 1"], capture_output=True, check=False).returncode:
                assert time.monotonic() < deadline, "PostgreSQL did not start"
                time.sleep(0.2)
            subprocess.run([*psql, "-c", f"CREATE DATABASE {service['environment']['POSTGRES_DB']}"], check=True)
            database = ["-d", service["environment"]["POSTGRES_DB"]]
            subprocess.run([*psql, *database, "-f", self._context / "deploy/postgres/roles.sql"], check=True, cwd="/")
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()

    @contextmanager
    def _s3(self) -> Iterator[None]:
        service = self._services["s3"]
        minio = shutil.which("minio") or str(Path.home() / "go/bin/minio")
        data = self._folder / "s3"
        command = [minio, *(str(data) if word == "/data" else word for word in service["command"]), "--quiet"]
        environment = {**service["environment"], "HOME": str(self._folder), "PATH": os.environ["PATH"]}
        with (self._folder / "s3.log").open("w") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def _answer(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, (done.args, done.stdout, done.stderr)
    return done.stdout


def _model() -> bytes:
    from onnx import TensorProto, helper

    shape: list[str | int | None] = ["rows", 2]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


if __name__ == "__main__":
    main()
