"""When schedules are due: cron in time zones, over the days on which clocks change."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import InvalidArgument
from services.fetcher.models import Plan, RemoteFile
from services.fetcher.schedules.models import When, job_id_of, revision_of
from services.fetcher.schedules.times import check_cron, check_zone, next_time

BERLIN = "Europe/Berlin"


def due(cron: str, time_zone: str, after: str, count: int) -> list[str]:
    """Give the times that follow another, in UTC."""
    time, found = datetime.fromisoformat(after), list[str]()
    for _ in range(count):
        following = next_time(cron, time_zone, time)
        assert following is not None
        time = following
        found.append(time.strftime("%m-%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("cron", "time_zone", "after", "expected"),
    [
        ("0 3 * * *", "UTC", "2026-11-22T03:00:00+00:00", ["11-23 03:00", "11-24 03:00"]),
        ("0 3 * * *", BERLIN, "2026-11-22T03:00:00+00:00", ["11-23 02:00", "11-24 02:00"]),
        ("30 6 * * mon-fri", "UTC", "2026-11-20T12:00:00+00:00", ["11-23 06:30", "11-24 06:30"]),
        ("0 0 L * *", "UTC", "2027-01-31T12:00:00+00:00", ["02-28 00:00", "03-31 00:00"]),
        ("0 0 29 2 *", "UTC", "2026-11-22T00:00:00+00:00", ["02-29 00:00", "02-29 00:00"]),
        ("0 0 13 * fri", "UTC", "2026-12-10T00:00:00+00:00", ["12-11 00:00", "12-13 00:00"]),
        ("0 0 */2 * fri", "UTC", "2026-11-22T00:00:00+00:00", ["11-27 00:00", "12-11 00:00"]),
    ],
    ids=["daily", "in a zone", "working days", "last day", "leap years", "either day", "both days"],
)  # fmt: skip
def test_the_next_times_follow_one_another(cron: str, time_zone: str, after: str, expected: list[str]) -> None:
    assert due(cron, time_zone, after, len(expected)) == expected


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        # On 28 March 2027 at 02:00 the clocks of Berlin go on to 03:00, which is 01:00 in UTC.
        ("30 2 * * *", ["03-27 01:30", "03-28 01:00", "03-29 00:30"]),
        ("0,30 2 * * *", ["03-27 01:00", "03-27 01:30", "03-28 01:00", "03-29 00:00"]),
        ("0 2,3 * * *", ["03-27 01:00", "03-27 02:00", "03-28 01:00", "03-29 00:00"]),
    ],
    ids=["once at the end of the gap", "two of the gap are one", "one of the gap and its end are one"],
)
def test_a_time_that_the_clocks_leave_out_is_due_when_they_go_on(cron: str, expected: list[str]) -> None:
    assert due(cron, BERLIN, "2027-03-27T00:00:00+01:00", len(expected)) == expected


def test_what_follows_the_time_that_passes_heeds_no_gap() -> None:
    assert due("*/30 * * * *", BERLIN, "2027-03-28T01:15:00+01:00", 3) == ["03-28 00:30", "03-28 01:00", "03-28 01:30"]
    assert due("30 */2 * * *", BERLIN, "2027-03-28T00:15:00+01:00", 2) == ["03-27 23:30", "03-28 02:30"]


def test_a_time_that_the_clocks_show_twice_is_due_at_the_first() -> None:
    # On 25 October 2026 at 03:00 they go back to 02:00: 02:30 is 00:30 and 01:30 in UTC.
    assert due("30 2 * * *", BERLIN, "2026-10-24T12:00:00+02:00", 2) == ["10-25 00:30", "10-26 01:30"]
    between = datetime(2026, 10, 25, 0, 45, tzinfo=UTC)
    assert next_time("30 2 * * *", BERLIN, between) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)
    in_the_second = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)
    assert next_time("0,50 2 * * *", BERLIN, in_the_second) == datetime(2026, 10, 26, 1, 0, tzinfo=UTC)


def test_what_follows_the_time_that_passes_comes_in_both_hours() -> None:
    expected = ["10-25 00:00", "10-25 00:30", "10-25 01:00", "10-25 01:30", "10-25 02:00"]
    assert due("*/30 * * * *", BERLIN, "2026-10-25T01:30:00+02:00", 5) == expected


@pytest.mark.parametrize(
    ("cron", "reason"),
    [
        ("nonsense", "INVALID_CRON"),
        ("", "INVALID_CRON"),
        ("* * * *", "INVALID_CRON"),
        ("0 0 3 * * *", "INVALID_CRON"),
        ("@daily", "INVALID_CRON"),
        ("60 3 * * *", "INVALID_CRON"),
        ("0 24 * * *", "INVALID_CRON"),
        ("0 3 32 * *", "INVALID_CRON"),
        ("0 3 0 * *", "INVALID_CRON"),
        ("0 3 * 13 *", "INVALID_CRON"),
        ("0 3 * * 8", "INVALID_CRON"),
        ("*/0 3 * * *", "INVALID_CRON"),
        ("0 5-3 * * *", "INVALID_CRON"),
        ("0 3 * * fri#6", "INVALID_CRON"),
        ("٣ 3 * * *", "INVALID_CRON"),
        ("0 3 * * *\n", "INVALID_CRON"),
        (f"{'0,' * 80}0 3 * * *", "INVALID_CRON"),
        ("* * * * *", "TOO_OFTEN"),
        ("*/4 * * * *", "TOO_OFTEN"),
        ("*/7 * * * *", "TOO_OFTEN"),
        ("0,4 3 * * *", "TOO_OFTEN"),
        ("0,58 0,23 * * *", "TOO_OFTEN"),
        ("0 3 30 2 *", "NEVER_DUE"),
        ("0 3 31 4,6 *", "NEVER_DUE"),
        ("0 3 */31 * mon#5", "NEVER_DUE"),
    ],
)
def test_what_is_no_expression_or_comes_too_often_or_never_is_refused(cron: str, reason: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_cron(cron)
    assert refused.value.reason == reason
    assert refused.value.violations[0].field == "cron"


@pytest.mark.parametrize(
    "cron", ["*/5 * * * *", "0,5 3 * * *", "59 23 * * *", "0 3 30 2 mon", "5 4 * * SUN", "0 0 LW * *"]
)
def test_what_comes_once_in_five_minutes_is_taken(cron: str) -> None:
    check_cron(cron)


@given(st.text(alphabet="0123456789*/,-#LWAFMNORIS ", max_size=40))
def test_an_expression_is_refused_in_words_or_understood(cron: str) -> None:
    try:
        check_cron(cron)
    except InvalidArgument as refused:
        reason = refused.reason
    else:
        reason = ""
    if reason:
        assert reason in ("INVALID_CRON", "TOO_OFTEN", "NEVER_DUE")
        return
    after = datetime(2026, 10, 24, 22, tzinfo=UTC)
    following = next_time(cron, BERLIN, after)
    assert following is not None
    assert following > after


@pytest.mark.parametrize(
    "zone", ["Berlin", "../etc/passwd", "/etc/localtime", "localtime", "Europe", "", "X" * 65, "a\0b"]
)
def test_what_is_no_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_zone(zone)
    assert refused.value.reason == "INVALID_TIME_ZONE"


def test_an_only_time_comes_once() -> None:
    at = datetime(2026, 12, 1, tzinfo=UTC)
    assert When(at_time=at).after(datetime(2026, 11, 1, tzinfo=UTC)) == at
    assert When(at_time=at).after(at) is None


def test_a_job_is_called_by_its_schedule_and_its_time() -> None:
    schedule, other = UUID(int=1), UUID(int=2)
    at = datetime(2026, 12, 1, 3, 0, 0, 123456, tzinfo=UTC)
    named = job_id_of(schedule, at)
    assert named == job_id_of(schedule, at)
    assert named not in (job_id_of(other, at), job_id_of(schedule, at.replace(microsecond=123457)))
    assert (named.version, named.variant) == (7, "specified in RFC 4122")
    assert named.int >> 80 == int(at.timestamp() * 1000)


def a_file(path: str = "a", **more: object) -> RemoteFile:
    known: dict[str, object] = {"locator": "x", "tag": "", "size_bytes": 5, **more}
    return RemoteFile(path=path, **known)  # type: ignore[arg-type] # as each test says


def test_a_source_is_known_again_by_its_revision_else_by_its_files() -> None:
    assert revision_of(Plan("abc", (a_file(),))) == "abc"
    tagged = revision_of(Plan("", (a_file(tag="1"), a_file("b", sha256="0" * 64))))
    assert tagged.startswith("files:")
    assert tagged == revision_of(Plan("", (a_file("b", sha256="0" * 64), a_file(tag="1", locator="elsewhere"))))
    others = [
        (a_file(tag="2"), a_file("b", sha256="0" * 64)),
        (a_file(tag="1", size_bytes=6), a_file("b", sha256="0" * 64)),
        (a_file(tag="1"), a_file("c", sha256="0" * 64)),
        (a_file(tag="1"),),
    ]
    assert tagged not in {revision_of(Plan("", files)) for files in others}


def test_what_says_nothing_of_itself_is_not_known_again() -> None:
    assert revision_of(Plan("", (a_file(tag="1"), a_file("b")))) == ""
