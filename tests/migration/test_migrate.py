from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from services.common.migrate import MigrationError, load_migrations, migrate

CREATE = "CREATE TABLE turbines (name text CONSTRAINT turbines_pkey PRIMARY KEY);"
FILL = "INSERT INTO plant.turbines VALUES ('a 100 % one'); INSERT INTO plant.turbines VALUES ('another');"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_turbines.sql").write_text(CREATE)
    (tmp_path / "0002_first_rows.sql").write_text(FILL)
    return tmp_path


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def test_pending_files_are_applied_in_order_and_only_once(empty_database: str, folder: Path) -> None:
    assert migrate(empty_database, "plant", folder) == ("0001_turbines", "0002_first_rows")
    assert migrate(empty_database, "plant", folder) == ()
    assert rows(empty_database, "SELECT count(*) FROM plant.turbines") == [(2,)]
    assert rows(empty_database, "SELECT number, name FROM plant.schema_migrations ORDER BY number") == [
        (1, "turbines"),
        (2, "first_rows"),
    ]


def test_two_at_once_both_succeed_and_the_work_is_done_once(empty_database: str, folder: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(migrate, empty_database, "plant", folder) for _ in range(4)]
        applied = [name for future in futures for name in future.result()]
    assert sorted(applied) == ["0001_turbines", "0002_first_rows"]
    assert rows(empty_database, "SELECT count(*) FROM plant.turbines") == [(2,)]


def test_a_changed_file_is_refused_and_nothing_is_applied(empty_database: str, folder: Path) -> None:
    migrate(empty_database, "plant", folder)
    (folder / "0001_turbines.sql").write_text(CREATE + " -- one small edit")
    (folder / "0003_more.sql").write_text("CREATE TABLE more ();")
    with pytest.raises(MigrationError, match="0001_turbines differs") as refusal:
        migrate(empty_database, "plant", folder)
    assert refusal.value.reason == "MIGRATION_CHANGED"
    assert rows(empty_database, "SELECT to_regclass('plant.more')") == [(None,)]


def test_a_database_ahead_of_the_files_is_refused(empty_database: str, folder: Path) -> None:
    migrate(empty_database, "plant", folder)
    (folder / "0002_first_rows.sql").unlink()
    with pytest.raises(MigrationError, match="0002_first_rows") as refusal:
        migrate(empty_database, "plant", folder)
    assert refusal.value.reason == "DATABASE_AHEAD"


def test_a_file_that_fails_leaves_the_ones_before_and_nothing_of_its_own(empty_database: str, folder: Path) -> None:
    (folder / "0003_broken.sql").write_text("CREATE TABLE half (); SELECT 1 / 0;")
    with pytest.raises(psycopg.errors.DivisionByZero):
        migrate(empty_database, "plant", folder)
    assert rows(empty_database, "SELECT max(number) FROM plant.schema_migrations") == [(2,)]
    assert rows(empty_database, "SELECT to_regclass('plant.half')") == [(None,)]


def test_more_locks_than_the_database_has_room_for_say_what_to_raise(empty_database: str, folder: Path) -> None:
    # Advisory locks share the room with those of tables, and take no files.
    (folder / "0003_many.sql").write_text(
        "CREATE TABLE half (); SELECT count(pg_advisory_xact_lock(n)) FROM generate_series(1, 1000000) AS s (n);"
    )
    with pytest.raises(MigrationError, match=r"0003_many locks .* max_locks_per_transaction") as refusal:
        migrate(empty_database, "plant", folder)
    assert refusal.value.reason == "LOCKS_EXHAUSTED"
    assert rows(empty_database, "SELECT max(number) FROM plant.schema_migrations") == [(2,)]
    assert rows(empty_database, "SELECT to_regclass('plant.half')") == [(None,)]


@pytest.mark.parametrize(
    "names", [["0002_late.sql"], ["0001_a.sql", "0001_b.sql"], ["0001_a.sql", "0003_c.sql"], ["1_short.sql"]]
)
def test_files_that_do_not_count_up_are_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("SELECT 1;")
    with pytest.raises(MigrationError):
        load_migrations(tmp_path)


def test_two_schemas_share_a_database_without_meeting(empty_database: str, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "0001_turbines.sql").write_text(CREATE)
    migrate(empty_database, "plant", folder)
    assert migrate(empty_database, "depot", other) == ("0001_turbines",)
    assert rows(empty_database, "SELECT count(*) FROM depot.turbines") == [(0,)]
