"""Profiles as rows: written once, with the version that they are attached to."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
from psycopg import Connection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from services.common.errors import FailedPrecondition
from services.common.postgres import Database
from services.monitoring.models import Window
from services.monitoring.profiles.models import (
    QUALITY_COUNTS,
    FeatureKind,
    FeatureReference,
    Moments,
    Reference,
    VectorSample,
)
from services.monitoring.profiles.reference import Description
from services.monitoring.profiles.sources import (
    Attachment,
    FileSource,
    NewProfile,
    Profile,
    RowFormat,
    Source,
    UploadSource,
    WindowSource,
)

KEPT_DAYS = 7

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('penstock.monitoring.profiles/' || %(model)s, 0))"
_ADD = """
INSERT INTO monitoring.profiles (
    profile_id, model, version, profile_number, source, row_count, accuracy, judged_count, duplicate_share,
    feature_count, create_time, created_by, note
)
SELECT
    %(profile_id)s, %(model)s, %(version)s, coalesce(max(profile_number), 0) + 1, %(source)s, %(row_count)s,
    %(accuracy)s, %(judged_count)s, %(duplicate_share)s, %(feature_count)s, %(create_time)s, %(created_by)s, %(note)s
FROM monitoring.profiles
WHERE model = %(model)s
"""
_ADD_FEATURE = """
INSERT INTO monitoring.profile_features (
    profile_id, position, name, kind, is_prediction, counts, edges, categories, moments, dimensions, overdispersion,
    quality, sample, sample_users
)
VALUES (
    %(profile_id)s, %(position)s, %(name)s, %(kind)s, %(is_prediction)s, %(counts)s::bigint[],
    %(edges)s::double precision[], %(categories)s::text[], %(moments)s::double precision[], %(dimensions)s,
    %(overdispersion)s, %(quality)s::double precision[], %(sample)s, %(sample_users)s
)
"""
# Newest days first; the day that is yet to come may have events already.
_ATTACH = """
INSERT INTO monitoring.profile_attachments (
    model, version, profile_id, attach_time, attached_by, columns, recount_day
)
VALUES (
    %(model)s, %(version)s, %(profile_id)s, %(time)s, %(attached_by)s, %(columns)s,
    ((%(time)s + interval '5 minutes') AT TIME ZONE 'UTC')::date
)
ON CONFLICT ON CONSTRAINT profile_attachments_pkey DO UPDATE
SET profile_id = excluded.profile_id, attach_time = excluded.attach_time, attached_by = excluded.attached_by,
    columns = excluded.columns, recount_day = excluded.recount_day, recount_first_day = NULL
"""

_PROFILE = """
SELECT profile.*, ARRAY(
    SELECT version FROM monitoring.profile_attachments AS attached
    WHERE attached.profile_id = profile.profile_id ORDER BY version LIMIT 1000
) AS attached_versions
FROM monitoring.profiles AS profile
"""
_GET = _PROFILE + "WHERE profile_id = %(profile_id)s"
_FEATURES = "SELECT * FROM monitoring.profile_features WHERE profile_id = %(profile_id)s ORDER BY position"
_LIST = (
    _PROFILE
    + """
WHERE (%(model)s = '' OR model = %(model)s)
  AND (%(version)s = '' OR EXISTS (
      SELECT FROM monitoring.profile_attachments AS attached
      WHERE attached.profile_id = profile.profile_id AND attached.version = %(version)s
  ))
  AND (%(before)s::uuid IS NULL OR profile_id < %(before)s)
ORDER BY profile_id DESC
LIMIT %(limit)s
"""
)
_FIND_ATTACHED = """
SELECT profile_id FROM monitoring.profile_attachments WHERE model = %(model)s AND version = %(version)s
"""
_ATTACHED_OF = """
SELECT model, version
FROM monitoring.profile_attachments
JOIN unnest(%(models)s::text[], %(versions)s::text[]) AS asked (model, version) USING (model, version)
"""

_ATTACHED_BELOW = """
SELECT model, version FROM monitoring.profile_attachments WHERE starts_with(model, %(prefix)s) ORDER BY model, version
"""

_FIND_REQUEST = """
SELECT body_sha256, profile_id FROM monitoring.profile_requests
WHERE caller = %(caller)s AND request_id = %(request_id)s
  AND create_time > clock_timestamp() - make_interval(days => %(kept_days)s)
"""
_EXPIRE = "DELETE FROM monitoring.profile_requests WHERE create_time <= clock_timestamp() - make_interval(days => %s)"
_KEEP_REQUEST = """
INSERT INTO monitoring.profile_requests (caller, request_id, body_sha256, profile_id)
VALUES (%(caller)s, %(request_id)s, %(body_sha256)s, %(profile_id)s)
ON CONFLICT ON CONSTRAINT profile_requests_key DO NOTHING
"""


class ProfileStore:
    """Profiles and what they are attached to."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, new: NewProfile, description: Description, source: Source, attachment: Attachment) -> UUID:
        """Keep a profile under the model's next number, attached; gives its id.

        Of a request that made one before, that one's, and nothing is kept.

        Raises:
            FailedPrecondition: the request's id came with another body (REQUEST_ID_REUSED).
        """
        with self._db.transaction() as connection:
            connection.execute(_LOCK, {"model": new.model})
            made = _find_made(connection, new, attachment.attached_by)
            if made is not None:
                return made
            _insert(connection, new, description, source, attachment)
            connection.execute(_ATTACH, _attachment_values(attachment))
            if new.request_id:
                connection.execute(_EXPIRE, [KEPT_DAYS])
                request = _request_values(new, attachment.attached_by)
                kept = connection.execute(_KEEP_REQUEST, {**request, "profile_id": attachment.profile_id})
                if not kept.rowcount:  # used at the same time for another model
                    raise _reused(new.request_id)
        return attachment.profile_id

    def find_made(self, new: NewProfile, caller: str) -> UUID | None:
        """Find what the same request made before; raises as `add` does."""
        with self._db.transaction() as connection:
            return _find_made(connection, new, caller)

    def attach(self, attachment: Attachment) -> None:
        """Attach a profile that is there, and have live data counted anew against it."""
        with self._db.transaction() as connection:
            connection.execute(_ATTACH, _attachment_values(attachment))

    def find(self, profile_id: UUID) -> Profile | None:
        """Find a profile with its features."""
        with self._db.transaction() as connection:
            row = connection.execute(_GET, {"profile_id": profile_id}).fetchone()
            if row is None:
                return None
            features = [_feature_from(feature) for feature in connection.execute(_FEATURES, {"profile_id": profile_id})]
        return _profile_from(row, {feature.name: feature for feature in features})

    def find_attached(self, model: str, version: str) -> UUID | None:
        """Find the id of the profile that a version is compared with."""
        with self._db.transaction() as connection:
            row = connection.execute(_FIND_ATTACHED, {"model": model, "version": version}).fetchone()
        return None if row is None else row["profile_id"]

    def attached_of(self, versions: Collection[tuple[str, str]]) -> list[tuple[str, str]]:
        """Say which of these models' versions are compared with a profile."""
        values = {"models": [model for model, _ in versions], "versions": [version for _, version in versions]}
        with self._db.transaction() as connection:
            return [(row["model"], row["version"]) for row in connection.execute(_ATTACHED_OF, values)]

    def attached_below(self, prefix: str) -> list[tuple[str, str]]:
        """Say which versions are compared with a profile whose models are named so at their beginning."""
        with self._db.transaction() as connection:
            rows = connection.execute(_ATTACHED_BELOW, {"prefix": prefix})
            return [(row["model"], row["version"]) for row in rows]

    def page(self, model: str, version: str, *, before: UUID | None, limit: int) -> list[Profile]:
        """List profiles without their features, the newest first, those before the id `before` where one is given."""
        values = {"model": model, "version": version, "before": before, "limit": limit}
        with self._db.transaction() as connection:
            return [_profile_from(row, {}) for row in connection.execute(_LIST, values)]


def _insert(
    connection: Connection[DictRow],
    new: NewProfile,
    description: Description,
    source: Source,
    attachment: Attachment,
) -> None:
    values = {
        "profile_id": attachment.profile_id,
        "model": new.model,
        "version": new.version,
        "source": Jsonb(_source_json(source)),
        "row_count": description.row_count,
        "accuracy": description.accuracy,
        "judged_count": description.judged_count,
        "duplicate_share": description.duplicate_share,
        "feature_count": len(description.features),
        "create_time": attachment.time,
        "created_by": attachment.attached_by,
        "note": new.note,
    }
    connection.execute(_ADD, values)
    rows = [
        _feature_values(attachment.profile_id, position, feature)
        for position, feature in enumerate(description.features.values())
    ]
    with connection.cursor() as cursor:
        cursor.executemany(_ADD_FEATURE, rows)


def _feature_values(profile_id: UUID, position: int, feature: FeatureReference) -> dict[str, object]:
    moments = feature.moments
    sample = feature.sample
    return {
        "profile_id": profile_id,
        "position": position,
        "name": feature.name,
        "kind": feature.kind.value,
        "is_prediction": feature.is_prediction,
        "counts": list(feature.counts),
        "edges": list(feature.edges),
        "categories": list(feature.categories),
        "moments": None if moments is None else [float(getattr(moments, name)) for name in Moments.__slots__],
        "dimensions": feature.dimensions,
        "overdispersion": feature.overdispersion,
        "quality": [feature.quality.get(name, 0.0) for name in QUALITY_COUNTS],
        "sample": None if sample is None else sample.vectors.astype("<f4").tobytes(),
        "sample_users": None if sample is None else sample.users.astype("<u4").tobytes(),
    }


def _feature_from(row: Mapping[str, Any]) -> FeatureReference:
    sample, moments = row["sample"], row["moments"]
    return FeatureReference(
        name=row["name"],
        kind=FeatureKind(row["kind"]),
        is_prediction=row["is_prediction"],
        counts=tuple(row["counts"]),
        edges=tuple(row["edges"]),
        categories=tuple(row["categories"]),
        moments=None if moments is None else Moments(int(moments[0]), *moments[1:]),
        dimensions=row["dimensions"],
        overdispersion=row["overdispersion"],
        quality=dict(zip(QUALITY_COUNTS, row["quality"], strict=True)),
        sample=None
        if sample is None
        else VectorSample(
            np.frombuffer(sample, "<f4").reshape(-1, row["dimensions"]), np.frombuffer(row["sample_users"], "<u4")
        ),
    )


def _profile_from(row: Mapping[str, Any], features: Mapping[str, FeatureReference]) -> Profile:
    reference = Reference(
        id=row["profile_id"],
        model=row["model"],
        version=row["version"],
        number=row["profile_number"],
        row_count=row["row_count"],
        features=features,
        accuracy=row["accuracy"],
        judged_count=row["judged_count"],
        duplicate_share=row["duplicate_share"],
        create_time=row["create_time"],
        created_by=row["created_by"],
        note=row["note"],
    )
    return Profile(reference, _source_from(row["source"]), row["feature_count"], row["attached_versions"])


def _source_json(source: Source) -> dict[str, object]:
    match source:
        case UploadSource():
            return {"upload_sha256": source.sha256}
        case FileSource():
            return {"uri": source.uri, "sha256": source.sha256, "format": source.row_format.name}
        case WindowSource():
            window = source.window
            return {"from_time": window.from_time.isoformat(), "to_time": window.to_time.isoformat()}


def _source_from(values: Mapping[str, Any]) -> Source:
    if "upload_sha256" in values:
        return UploadSource(values["upload_sha256"])
    if "uri" in values:
        return FileSource(values["uri"], values["sha256"], RowFormat[values["format"]])
    times = (datetime.fromisoformat(values[name]) for name in ("from_time", "to_time"))
    return WindowSource(Window(*times))


def _attachment_values(attachment: Attachment) -> dict[str, object]:
    values = {name: getattr(attachment, name) for name in Attachment.__slots__}
    return {**values, "columns": list(attachment.columns)}


def _request_values(new: NewProfile, caller: str) -> dict[str, object]:
    return {"caller": caller, "request_id": new.request_id, "body_sha256": new.body_sha256}


def _find_made(connection: Connection[DictRow], new: NewProfile, caller: str) -> UUID | None:
    if not new.request_id:
        return None
    values = {**_request_values(new, caller), "kept_days": KEPT_DAYS}
    first = connection.execute(_FIND_REQUEST, values).fetchone()
    if first is None:
        return None
    if first["body_sha256"] != new.body_sha256:
        raise _reused(new.request_id)
    found: UUID = first["profile_id"]
    return found


def _reused(request_id: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"the request_id {request_id!r} came with another request before; choose a new one for a new request, "
        "and send exactly the same to repeat one",
        reason="REQUEST_ID_REUSED",
    )
