"""The process in which apprise runs: what it is kept from, and that it can be given up."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import certifi
import pytest

from services.common.errors import Unavailable
from services.common.outbox.webhooks import NotDelivered
from services.monitoring.notifications.apprise_sender import AppriseSender
from services.monitoring.notifications.apprise_urls import DEFAULT_SCHEMES
from tests.receivers import answers, hangs, receiving

pytestmark = pytest.mark.slow  # each is a process of its own
ROOT = Path(__file__).resolve().parents[2]
CHILDREN = "tests.testdata.children"
REFUSED, DONE = "PermissionError", "done"
LIST_SCHEMES = (
    "import json; from apprise.manager_plugins import NotificationManager as Manager; "
    "manager = Manager(); manager.load_modules(); print(json.dumps(sorted(manager._schema_map)))"
)


def tried(*attempts: tuple[str, Any], allowed: str = "") -> list[str]:
    task = json.dumps({"attempts": attempts, "allowed_hosts": allowed})
    command = [sys.executable, "-m", f"{CHILDREN}.guarded"]
    ended = subprocess.run(command, input=task, capture_output=True, text=True, cwd=ROOT, timeout=240, check=True)
    return list(json.loads(ended.stdout))


def test_the_guard_lets_through_what_is_allowed_and_nothing_else(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("secret")
    link = Path(sys.prefix, "lib") / ".." / ".." / ".." / kept.relative_to("/")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        expected: dict[tuple[str, Any], str] = {
            ("connect", address): REFUSED,
            ("connect", ("169.254.169.254", 80)): REFUSED,
            ("connect", ("10.0.0.1", 80)): REFUSED,
            ("connect", ("::1", address[1])): REFUSED,
            ("packet", address): REFUSED,
            ("unix", "/var/run/docker.sock"): REFUSED,
            ("name", ("localhost", address[1])): "gaierror",
            ("bind", ("127.0.0.1", 0)): REFUSED,
            ("read", str(kept)): REFUSED,
            ("read", str(link)): REFUSED,
            ("read", "/proc/self/environ"): REFUSED,
            ("read", certifi.where()): DONE,
            ("write", str(kept)): REFUSED,
            ("write", str(Path(sys.prefix, "written"))): REFUSED,
            ("remove", str(kept)): REFUSED,
            ("run", ("true",)): REFUSED,
            ("system", "true"): REFUSED,
            ("fork", None): REFUSED,
        }
        assert dict(zip(expected, tried(*expected), strict=True)) == expected
        by_name = tried(("name", ("localhost", address[1])), ("connect", ("10.0.0.1", 80)), allowed="localhost")
        assert by_name == [DONE, REFUSED]
        assert tried(("connect", address), allowed="127.0.0.1") == [DONE]
    assert kept.read_text() == "secret"


def test_every_scheme_of_the_default_is_one_that_apprise_has() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LIST_SCHEMES], capture_output=True, text=True, timeout=240, check=True
    )
    assert set(DEFAULT_SCHEMES.split(",")) - set(json.loads(ended.stdout)) == set()


def test_a_child_that_is_stuck_is_killed_and_its_place_is_free_again() -> None:
    sender = AppriseSender("", 1, timeout_s=0.1, starting_s=0.1, child=f"{CHILDREN}.stuck")
    for _ in range(2):  # more than there are places
        with pytest.raises(NotDelivered, match="longer than") as caught:
            sender.send("slack://secret", "slack", "title", "text", "info", "Message: 1")
        assert caught.value.reason == "RECEIVER_TIMEOUT"
        assert caught.value.retry_after_s == pytest.approx(0.3)
        assert "secret" not in caught.value.message


def test_a_child_that_breaks_says_nothing_and_is_a_failure() -> None:
    with pytest.raises(Unavailable) as caught:
        AppriseSender("", 1, child=f"{CHILDREN}.none").check("slack://secret", "url")
    assert caught.value.reason == "APPRISE_FAILED"


def test_a_receiver_that_hangs_is_given_up_and_one_that_refuses_says_its_status() -> None:
    with receiving() as receiver:
        url = f"gotify://127.0.0.1:{receiver.port}/token"
        receiver.script = [hangs, answers(403)]
        with pytest.raises(NotDelivered) as hung:
            AppriseSender("127.0.0.1", 1, timeout_s=1).send(url, "gotify", "title", "text", "failure", "Message: 1")
        assert hung.value.retryable
        sender = AppriseSender("127.0.0.1", 1)
        with pytest.raises(NotDelivered, match="HTTP 403"):
            sender.send(url, "gotify", "title", "text", "failure", "Message: 1")
        sender.send(url, "gotify", "größer", "text", "failure", "Message: 1")
    assert receiver.posts[-1].document["title"] == "größer"
    assert receiver.posts[-1].document["message"] == "text\n\nMessage: 1"


def test_a_redirect_is_not_followed() -> None:
    with receiving() as receiver, receiving() as private:
        receiver.otherwise = answers(307, Location=private.url)
        with pytest.raises(NotDelivered):
            AppriseSender("127.0.0.1", 1).send(
                f"gotify://127.0.0.1:{receiver.port}/token", "gotify", "title", "text", "info", "Message: 1"
            )
        assert len(receiver.posts) == 1
        assert private.posts == []


SLACK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
READ_EACH = """
import json, sys
import apprise
from services.monitoring.notifications.apprise_child import _problem, fitted
read = apprise.Apprise.instantiate
pager = read("pagerduty://integration-key@api-key")
text = fitted("x" * 5_000, "Message: 1", pager.body_maxlen - len("title"))
print(json.dumps([[(_problem(read(url)) or ("", ""))[0] for url in json.load(sys.stdin)], len(text), text[-20:]]))
"""


def test_a_channel_tells_one_receiver_and_its_password_goes_over_tls() -> None:
    """All would be told again for a day where one of several refuses; and a login in plain text is anybody's."""
    expected = {
        "slack://nonsense": "INVALID_CHANNEL",
        f"{SLACK}/#one": "",
        f"{SLACK}/#one/#gone": "INVALID_CHANNEL",
        SLACK: "",
        "line://token": "INVALID_CHANNEL",  # nobody
        "matrixs://ann:password@example.org/#one": "",
        "matrixs://ann:password@example.org": "INVALID_CHANNEL",  # every room that she is in
        "mailtos://ann:password@example.org": "",
        "mailtos://ann:password@example.org?to=bob@example.org": "",
        "mailtos://ann:password@example.org?to=bob@example.org,eve@example.org": "INVALID_CHANNEL",
        "mailto://ann:password@example.org": "URL_NOT_ALLOWED",
        "mailto://ann:password@gmail.com": "",  # of which apprise knows that it takes STARTTLS
        "mailtos://ann:password@example.org?mode=insecure": "URL_NOT_ALLOWED",
        "mailtos://example.org?mode=insecure&from=ann@example.org": "URL_NOT_ALLOWED",
        "mailto://127.0.0.1:25/?from=ann@example.org&to=bob@example.org": "",
        "gotifys://example.org/token?verify=no": "URL_NOT_ALLOWED",
    }
    command = [sys.executable, "-c", READ_EACH]
    ended = subprocess.run(
        command, input=json.dumps(list(expected)), capture_output=True, text=True, cwd=ROOT, timeout=240, check=True
    )
    found, length, end = json.loads(ended.stdout)
    assert dict(zip(expected, found, strict=True)) == expected
    assert length <= 1_024 - len("title")  # PagerDuty refuses what is longer, at every attempt
    assert end == "xxxxxxx…\n\nMessage: 1"


def test_a_child_that_takes_too_much_memory_breaks_alone() -> None:
    with pytest.raises(Unavailable) as caught:
        AppriseSender("", 1, child=f"{CHILDREN}.hungry").check("slack://secret", "url")
    assert caught.value.reason == "APPRISE_FAILED"
