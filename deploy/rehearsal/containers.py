"""Runs an image as Compose would: a read-only root of its own, an unprivileged user, and secrets as files."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .images import Image


@dataclass
class Container:
    """A service of the compose file, in its image."""

    name: str
    image: Image
    service: dict[str, Any]
    folder: Path
    secrets: Path

    def start(self, *command: str, log: Path | None = None) -> subprocess.Popen[str]:
        """Start its entrypoint with a command, or with its own."""
        entrypoint = self.service.get("entrypoint") or self.image.entrypoint
        words = [*entrypoint, *(command or self.service.get("command") or ())]
        return self._start(words, log)

    def run(self, *command: str, entrypoint: bool = True) -> subprocess.CompletedProcess[str]:
        """Run to the end; whatever its exit code."""
        process = self.start(*command) if entrypoint else self._start(list(command), None)
        output, error = process.communicate(timeout=300)
        return subprocess.CompletedProcess(command, process.returncode, output, error)

    def becomes_healthy(self, deadline_s: float = 90.0) -> bool:
        """Run the image's health check until it is content."""
        deadline = time.monotonic() + deadline_s
        while time.monotonic() < deadline:
            if self.run(*self.image.health, entrypoint=False).returncode == 0:
                return True
            time.sleep(0.5)
        return False

    def stop(self, process: subprocess.Popen[str]) -> int:
        """Send the image's signal, and wait for the end."""
        self.kill(process, signal.Signals[self.image.stop_signal])
        return process.wait(timeout=60)

    @staticmethod
    def kill(process: subprocess.Popen[str], number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the container's first process; `unshare` around it only waits for its end."""
        inside = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in inside:
            os.kill(int(pid), number)

    def _start(self, words: list[str], log: Path | None) -> subprocess.Popen[str]:
        uid, _, gid = self.image.user.partition(":")
        root = self.folder / "roots" / f"{self.name}-{time.monotonic_ns()}"
        root.mkdir(parents=True)
        environment = {**self.image.environment, **(self.service.get("environment") or {})}
        # Places to mount things at may still be made; then the root is closed.
        upper = Path(f"{root}.upper"), Path(f"{root}.work")
        for folder in upper:
            folder.mkdir()
        layers = f"lowerdir={':'.join(map(str, self.image.layers))},upperdir={upper[0]},workdir={upper[1]}"
        steps = [f"mount -t overlay overlay -o {layers} {root}"]
        steps += [f"mount -t proc proc {root}/proc", f"mount --bind /dev {root}/dev"]
        steps += [f"mount --bind {self.folder}/hosts {root}/etc/hosts"]
        steps += [f"mount -t tmpfs -o mode=1777 tmpfs {root}/tmp", f"mount -t tmpfs -o mode=0755 tmpfs {root}/run"]
        steps += [f"mkdir {root}/run/secrets"]
        for secret in self.service.get("secrets") or ():
            source, target = (secret, secret) if isinstance(secret, str) else (secret["source"], secret["target"])
            steps.append(f"install -m 0444 {self.secrets}/{source} {root}/run/secrets/{target}")
        for volume in self.service.get("volumes") or ():
            steps += self._volume(root, volume)
        steps.append(f"mount -o remount,ro {root}")
        inner = ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), *words]
        dropped = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs"]
        caged = ["setpriv", *dropped, "--inh-caps=-all", "--bounding-set=-all", *inner]
        entered = ["chroot", str(root), "/bin/sh", "-c", f'cd {self.image.workdir} && exec "$@"', "sh", *caged]
        script = " && ".join([*steps, f"exec {shlex.join(entered)}"])
        return subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=log.open("a") if log else subprocess.PIPE,
            stderr=subprocess.STDOUT if log else subprocess.PIPE,
            text=True,
        )

    def _volume(self, root: Path, volume: str) -> list[str]:
        source, target, *mode = volume.split(":")
        if not source.startswith(("/", ".")):
            kept = self.folder / "volumes" / source
            if not kept.exists():
                self._fill(kept, target)
            source = str(kept)
        steps = [f"touch {root}{target}" if Path(source).is_file() else f"mkdir -p {root}{target}"]
        steps += [f"mount --bind {source} {root}{target}"]
        return [*steps, f"mount -o remount,ro,bind {root}{target}"] if mode == ["ro"] else steps

    def _fill(self, kept: Path, target: str) -> None:
        """Begin a named volume with what the image has there, its owner and mode above all."""
        kept.parent.mkdir(parents=True, exist_ok=True)
        for layer in self.image.layers:
            if (found := layer / target.lstrip("/")).is_dir():
                shutil.copytree(found, kept)
                os.chown(kept, found.stat().st_uid, found.stat().st_gid)
                kept.chmod(found.stat().st_mode & 0o7777)
                return
        kept.mkdir()
