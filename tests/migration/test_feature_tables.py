"""Views that were made when the latest rows stood in a table of their own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import psycopg

from services.common.migrate import migrate
from services.common.postgres import Database
from services.registry.features.models import Rows
from services.registry.features.store.transaction import FeatureStore

MIGRATIONS = Path(__file__).parents[2] / "services" / "registry" / "features" / "migrations"
COLUMNS = "entity_key text NOT NULL, event_time bigint NOT NULL, create_time bigint NOT NULL, f0 double precision"
BEFORE = f"""
INSERT INTO features.views (name, version, entity, features, created_by)
VALUES ('spending', 1, 'customer', '[{{"name": "amount", "type": "FLOAT64", "description": ""}}]', 'ada');
CREATE TABLE features.rows_1 ({COLUMNS}, PRIMARY KEY (entity_key, event_time, create_time));
CREATE TABLE features.latest_1 ({COLUMNS}, PRIMARY KEY (entity_key));
INSERT INTO features.rows_1 VALUES ('ada', 1, 5, 1.5), ('ada', 2, 6, 2.5), ('ada', 2, 7, 3.5);
INSERT INTO features.latest_1 VALUES ('ada', 2, 7, 3.5);
"""


def test_a_view_from_before_is_read_and_written_as_ever(empty_database: str, tmp_path: Path) -> None:
    for file in ("0001_views.sql", "0002_request_values.sql"):
        shutil.copy(MIGRATIONS / file, tmp_path)
    migrate(empty_database, "features", tmp_path)
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(BEFORE)
    migrate(empty_database, "features", MIGRATIONS)
    with Database(empty_database) as database, FeatureStore(database).transaction() as tables:
        view = tables.views.get("spending")
        written = tables.values.write(view, Rows(["ada", "bob"], np.array([1, 1]), {}), None)
        latest = tables.values.latest(view, ["ada", "bob"], [0], now=10)
        assert (written.written_count, written.late_count) == (2, 1)
        assert latest.event_times.tolist() == [2, 1]
        assert latest.columns["amount"].values[0] == 3.5
        tables.views.delete(view)
    with psycopg.connect(empty_database) as connection:
        left = connection.execute("SELECT count(*) FROM pg_tables WHERE tablename ~ '_1$'").fetchone()
    assert left == (0,)
