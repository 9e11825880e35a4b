"""The process in which apprise runs, for one message: it may reach the addresses that are allowed, and nothing else.

It reads its task as JSON from standard input, so that no secret stands in a list of processes, and writes what became
of it to standard output. Once apprise is loaded a guard takes hold: a socket connects only to an address that passed,
no file is written, none is read but Python's own and the system's certificates, and no process is started. What it may
take of memory and processor time is limited before.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import logging
import os
import re
import resource
import socket
import sys
import sysconfig
from collections.abc import Sequence
from typing import Any

from services.common.addresses import AddressRules, AllowedHosts

MAX_TASK_BYTES = 1024 * 1024
MEMORY_LIMIT_BYTES = 512 * 1024 * 1024
"""Of addresses: apprise with all that it loads has some 80 MiB of them, and each thread reserves 64 more."""
CPU_LIMIT_S = 60
_READABLE = ("/etc/ssl", "/etc/pki", "/etc/mime.types", "/etc/localtime", "/usr/share", "/dev/null", "/dev/urandom")
_NEVER = frozenset(
    {
        "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.remove",
        "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
        "socket.bind", "ctypes.dlopen",
    }
)  # fmt: skip
_SENDING = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_STATUS = re.compile(r"error\s*[=:]\s*([1-5][0-9][0-9])\b")


class Guard:
    """What the process may still do; `refused` says what it was kept from."""

    def __init__(self, rules: AddressRules) -> None:
        self._rules = rules
        self._passed: set[str] = set()
        self._readable = tuple({os.path.realpath(path) for path in (*_roots(), *_READABLE)})
        self._resolve = socket.getaddrinfo
        self.refused = ""

    def take_hold(self) -> None:
        """Begin; there is no way back."""
        socket.getaddrinfo = self._looked_up  # type: ignore[assignment] # it passes on whatever it is called with
        sys.addaudithook(self._hear)

    def _looked_up(self, host: Any, port: Any, *arguments: Any, **options: Any) -> Sequence[Any]:
        """Look a host up, and give those of its addresses that may be connected to."""
        name = host.decode() if isinstance(host, bytes) else str(host or "")
        passed = []
        for found in self._resolve(host, port, *arguments, **options):
            address = str(found[4][0])
            if self._rules.allows(ipaddress.ip_address(address.partition("%")[0]), name.lower().rstrip(".")):
                self._passed.add(address)
                passed.append(found)
        if not passed:
            self.refused = f"{name} is at a private address, or another that is not reached from here"
            raise socket.gaierror(socket.EAI_NONAME, self.refused)
        return passed

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _NEVER:
            raise PermissionError(f"{event} is not allowed")
        if event in _SENDING:
            self._check_address(arguments[1])
        elif event == "open":
            self._check_open(*arguments)

    def _check_address(self, address: Any) -> None:
        if address is None:  # it is connected already
            return
        host = str(address[0]) if isinstance(address, tuple) and address else ""
        if host not in self._passed and not self._is_allowed(host):
            self.refused = "an address that is not reached from here"
            raise PermissionError(self.refused)

    def _is_allowed(self, host: str) -> bool:
        try:
            return self._rules.allows(ipaddress.ip_address(host.partition("%")[0]), host)
        except ValueError:
            return False

    def _check_open(self, path: Any, _mode: Any, flags: Any) -> None:
        if isinstance(path, int):  # a descriptor that is open already
            return
        real = os.path.realpath(os.fsdecode(path))
        writes = int(flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        if real == "/dev/null":
            return
        if writes or not any(real == root or real.startswith(root.rstrip("/") + "/") for root in self._readable):
            raise PermissionError("that file is not opened here")


class _Statuses(logging.Handler):
    """Hears from apprise which HTTP status a receiver answered; the rest may hold secrets, and is let go."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.status = ""

    def emit(self, record: logging.LogRecord) -> None:
        found = _STATUS.search(record.getMessage())
        if found is not None:
            self.status = found[1]


def main() -> None:
    """Do the task, and say what became of it."""
    limit_resources()
    task = json.loads(sys.stdin.buffer.read(MAX_TASK_BYTES))
    answer = _answer(task)
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # apprise's threads are not waited for


def limit_resources() -> None:
    """Bound what a plugin, or what a receiver answers it, can take; there is no way back."""
    limits = {
        resource.RLIMIT_AS: MEMORY_LIMIT_BYTES,
        resource.RLIMIT_CPU: CPU_LIMIT_S,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
    }
    for which, most in limits.items():
        # macOS refuses some of these, and a limit may already be lower than ours.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(which, (most, most))


def _answer(task: dict[str, Any]) -> dict[str, Any]:
    import apprise
    from apprise.manager_plugins import NotificationManager

    NotificationManager().load_modules()  # type: ignore[no-untyped-call]
    logger, statuses = logging.getLogger("apprise"), _Statuses()
    logger.handlers, logger.propagate = [statuses], False
    guard = Guard(AddressRules(AllowedHosts.parse(task["allowed_hosts"])))
    guard.take_hold()
    asset = apprise.AppriseAsset(
        app_id="Penstock",
        app_desc="Penstock",
        async_mode=False,
        http_redirects=False,
        pgp_autogen=False,
        pem_autogen=False,
        storage_mode="memory",
        service_timeout=task["timeout_s"],
    )
    service = apprise.Apprise.instantiate(task["url"], asset=asset)
    problem = _problem(service)
    if service is None or problem is not None or task["check_only"]:
        reason, sentence = problem or ("", "")
        return {"reason": reason, "problem": sentence, "delivered": False, "status": "", "refused": guard.refused}
    service.overflow_mode = apprise.OverflowMode.TRUNCATE
    messenger = apprise.Apprise(asset=asset)
    messenger.add(service)
    delivered = messenger.notify(
        title=task["title"],
        body=fitted(task["text"], task["last_line"], service.body_maxlen - len(task["title"])),
        notify_type=task["type"],
        body_format=apprise.NotifyFormat.TEXT,
    )
    return {
        "reason": "", "problem": "", "delivered": bool(delivered), "status": statuses.status, "refused": guard.refused,
    }  # fmt: skip


def _problem(service: Any) -> tuple[str, str] | None:
    """Say why a service of apprise's is not used, with the reason first; None: it is."""
    if service is None:
        return "INVALID_CHANNEL", "apprise cannot read it: see its documentation for what follows the scheme"
    if len(service) != 1:
        # Where one of several refuses, apprise says no more than that it failed, and all would hear it again and again.
        sentence = f"it names {len(service) or 'no'} receivers, and a channel tells one: make a channel of each"
        return "INVALID_CHANNEL", sentence
    if service.schema.startswith("matrix") and service.mode == "off" and not (service.rooms or service.users):
        return "INVALID_CHANNEL", "it names no room, and would tell each that its user is in: name one"
    if not service.verify_certificate:
        return "URL_NOT_ALLOWED", "it would not look at the receiver's certificate"
    # Mail alone has a mode: apprise logs in without TLS wherever the scheme is mailto, and the domain unknown to it.
    if getattr(service, "secure_mode", None) == "insecure" and (service.password or service.schema == "mailtos"):
        return "URL_NOT_ALLOWED", "it would go without TLS: write mailtos://, and no mode=insecure"
    return None


def fitted(text: str, last_line: str, room: int) -> str:
    """Cut a text to what its receiver takes, but for the last line: what is too long would be refused each time."""
    room -= len(last_line) + len("\r\n\n\n")
    kept = text if len(text) <= room else text[: max(0, room - 1)].rstrip() + "…"
    return f"{kept}\n\n{last_line}"


def _roots() -> tuple[str, ...]:
    """Where Python's own files are."""
    paths = sysconfig.get_paths()
    return (sys.prefix, paths["stdlib"], paths["platstdlib"], paths["purelib"], paths["platlib"])


if __name__ == "__main__":
    main()
