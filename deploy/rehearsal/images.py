"""Builds the targets of a Dockerfile on Debian roots: each stage is an overlay on what it stands on.

Only what deploy/Dockerfile uses is understood; anything else ends with an error, never with a guess.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")
_OF_THE_NETWORK = ("PIP_CERT", "PIP_INDEX_URL", "SSL_CERT_FILE", "http_proxy", "https_proxy", "no_proxy")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class Image:
    """What a stage has become. `layers` begins with the topmost; the last is the Debian root."""

    layers: tuple[Path, ...]
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "0:0"
    entrypoint: tuple[str, ...] = ()
    health: tuple[str, ...] = ()
    stop_signal: str = ""
    volumes: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """What the stages add to the base image."""
        return sum(int(_output("du", "-sb", str(layer)).split()[0]) for layer in self.layers[:-1])


class Builder:
    """Builds stages, and keeps them in a folder by a hash of all that went into them."""

    def __init__(self, dockerfile: Path, context: Path, base: Path, cache: Path) -> None:
        self._context, self._base, self._cache = context, base, cache
        self._globals: dict[str, str] = {}
        self._stages = self._read(dockerfile.read_text())
        self._built: dict[str, Image] = {}

    def build(self, stage: str) -> Image:
        """Build a stage and all that it stands on."""
        if stage not in self._built:
            self._built[stage] = self._build(stage)
        return self._built[stage]

    def _read(self, text: str) -> dict[str, list[tuple[str, str]]]:
        stages: dict[str, list[tuple[str, str]]] = {}
        steps: list[tuple[str, str]] = []
        lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        for line in "\n".join(lines).replace("\\\n", " ").splitlines():
            word, _, rest = line.strip().partition(" ")
            if word == "FROM":
                name = rest.split()[2]
                steps = stages[name] = [(word, rest.split()[0])]
            elif word == "ARG" and not stages:
                name, _, value = rest.partition("=")
                self._globals[name] = value
            else:
                steps.append((word, rest.strip()))
        return stages

    def _build(self, stage: str) -> Image:
        (_, parent), *steps = self._stages[stage]
        image = self.build(parent) if parent in self._stages else Image((self._base,))
        key = hashlib.sha256(json.dumps([stage, [str(layer) for layer in image.layers], steps]).encode())
        for word, rest in steps:
            if word == "COPY":
                key.update(self._digest_of(rest).encode())
        layer = self._cache / "layers" / key.hexdigest()[:24]
        done = layer.with_suffix(".done")
        fresh = not done.exists()
        if fresh:
            shutil.rmtree(layer, ignore_errors=True)
            layer.mkdir(parents=True)
            print(f"building {stage}", flush=True)
        below = image.layers
        image = replace(image, layers=(layer, *below))
        with mounted(image.layers, self._cache / "mounts" / f"build-{stage}", writable=fresh) as root:
            for word, rest in steps:
                image = self._step(image, root if fresh else None, word, rest)
        done.touch()
        return image

    def _step(self, image: Image, root: Path | None, word: str, rest: str) -> Image:
        """Take one instruction; with no root, what it does to files is there already."""
        known = {**image.arguments, **image.environment}
        if word == "ENV":
            pairs = (pair.partition("=") for pair in shlex.split(rest))
            return replace(
                image, environment={**image.environment, **{name: _expand(text, known) for name, _, text in pairs}}
            )
        if word == "ARG":
            name, _, text = rest.partition("=")
            return replace(image, arguments={**image.arguments, name: self._globals.get(name, text)})
        if word in ("LABEL", "EXPOSE"):
            return image
        if word == "WORKDIR":
            if root:
                (root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            return replace(image, workdir=rest)
        if word == "RUN" and root:
            self._run(image, root, rest)
        elif word == "COPY" and root:
            self._copy(image, root, rest)
        elif word not in ("RUN", "COPY"):
            return _described(image, word, rest)
        return image

    def _run(self, image: Image, root: Path, rest: str) -> None:
        while match := re.match(r"--mount=type=cache,target=(\S+)\s+", rest):
            folder = self._cache / "cache" / match[1].strip("/").replace("/", "-")
            folder.mkdir(parents=True, exist_ok=True)
            target = root / match[1].lstrip("/")
            target.mkdir(parents=True, exist_ok=True)
            _call("mount", "--bind", str(folder), str(target))
            rest = rest[match.end() :]
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
        environment |= {name: os.environ[name] for name in _OF_THE_NETWORK if name in os.environ}
        environment |= {**image.arguments, **image.environment}
        script = f"cd {shlex.quote(image.workdir)} && {rest}"
        _call("chroot", f"--userspec={image.user}", str(root), "/bin/sh", "-c", script, environment=environment)

    def _copy(self, image: Image, root: Path, rest: str) -> None:
        words = rest.split()
        if match := re.fullmatch(r"--from=(\S+)", words[0]):
            source = self.build(match[1])
            with mounted(source.layers, self._cache / "mounts" / f"from-{match[1]}", writable=False) as other:
                _copy_over(other / words[1].lstrip("/"), root / words[2].lstrip("/"))
            return
        target = Path(image.workdir) / words[1]
        _copy_over(self._context / words[0], root / str(target).lstrip("/"))

    def _digest_of(self, rest: str) -> str:
        words = rest.split()
        if words[0].startswith("--from="):
            return str(self.build(words[0].removeprefix("--from=")).layers)
        source = self._context / words[0]
        files = [source] if source.is_file() else sorted(each for each in source.rglob("*") if each.is_file())
        return "".join(f"{each}{hashlib.sha256(each.read_bytes()).hexdigest()}" for each in files)


def _described(image: Image, word: str, rest: str) -> Image:
    if word == "USER":
        return replace(image, user=rest)
    if word == "STOPSIGNAL":
        return replace(image, stop_signal=rest)
    if word == "VOLUME":
        return replace(image, volumes=(*image.volumes, rest))
    if word == "ENTRYPOINT":
        return replace(image, entrypoint=tuple(json.loads(rest)))
    if word == "HEALTHCHECK":
        return replace(image, health=tuple(json.loads(rest.partition("CMD ")[2])))
    raise NotImplementedError(f"{word} {rest}")


@contextmanager
def mounted(layers: tuple[Path, ...], at: Path, *, writable: bool) -> Iterator[Path]:
    """Mount the layers as one tree; what is written goes into the first. The mounts are this process's own."""
    at.mkdir(parents=True, exist_ok=True)
    upper, *lower = layers
    if writable:
        work = upper.with_suffix(".work")
        work.mkdir(exist_ok=True)
        options = f"lowerdir={':'.join(map(str, lower))},upperdir={upper},workdir={work}"
    else:
        options = f"ro,lowerdir={':'.join(map(str, layers))}"
    _call("mount", "-t", "overlay", "overlay", "-o", options, str(at))
    try:
        if writable:
            for source in ("/dev", "/etc/resolv.conf", str(CERTIFICATES)):
                if Path(at, source.lstrip("/")).exists():
                    _call("mount", "--bind", source, str(at) + source)
            _call("mount", "-t", "proc", "proc", f"{at}/proc")
        yield at
    finally:
        _call("umount", "--recursive", str(at))


def _copy_over(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target)


def _expand(text: str, known: dict[str, str]) -> str:
    default = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
    return _VARIABLE.sub(lambda match: {**default, **known}.get(match[1] or match[2], ""), text)


def _call(*command: str, environment: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, env=environment, stdin=subprocess.DEVNULL)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
