"""The SQL of an outbox. Times are the database's alone: no statement takes one from whoever runs it."""

from __future__ import annotations

from typing import LiteralString

# A server that is set to `off` would tell of commits that a crash then forgets. Stricter settings stay as they are.
MAKE_DURABLE: LiteralString = """
SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'
"""
# A destination that has been down for long must not fill the disk: what is too much is FAILED where it is put, which
# spares the caller's transaction and still is counted.
PUT: LiteralString = """
INSERT INTO {table} (
    message_id, destination, ordering_key, body, give_up_time, state, end_time, error_reason, error_message
)
SELECT %(message_id)s, %(destination)s, %(ordering_key)s, CASE WHEN room THEN %(body)s ELSE ''::bytea END,
    clock_timestamp() + make_interval(secs => %(give_up_s)s),
    CASE WHEN room THEN 'WAITING' ELSE 'FAILED' END, CASE WHEN room THEN NULL ELSE clock_timestamp() END,
    CASE WHEN room THEN '' ELSE 'OUTBOX_FULL' END,
    CASE WHEN room THEN '' ELSE 'over ' || %(max_waiting)s::bigint || ' messages wait for this destination' END
FROM (
    SELECT count(*) < %(max_waiting)s AS room
    FROM (SELECT FROM {table} WHERE destination = %(destination)s AND state = 'WAITING' LIMIT %(max_waiting)s) waiting
) known
ON CONFLICT (message_id) DO NOTHING
"""

# What is new would be tried at once: so is what it waits behind, unless that is on its way or its receiver asked for
# time. Only such a row is locked, and none is waited for: whoever puts may hold it for a while.
HASTEN: LiteralString = """
UPDATE {table} SET due_time = clock_timestamp()
WHERE message_id = (
    SELECT message_id FROM {table}
    WHERE message_id = (
        SELECT message_id FROM {table}
        WHERE state = 'WAITING' AND destination = %(destination)s AND ordering_key = %(ordering_key)s
        ORDER BY put_number LIMIT 1
    ) AND state = 'WAITING' AND due_time > clock_timestamp() AND (hold_time IS NULL OR hold_time <= clock_timestamp())
    FOR UPDATE SKIP LOCKED
)
"""

# That a destination is free must still be so when its message is taken: claims go one after another.
LOCK_CLAIMS: LiteralString = "SELECT pg_advisory_xact_lock(hashtextextended(%(name)s, 0))"
# Of a destination and ordering key only what was put first is looked at: one step through the index a pair, however
# many messages wait behind. Of these, what has been tried least goes first: whoever is down for long comes after those
# that may be up.
CLAIM: LiteralString = """
WITH RECURSIVE first AS (
    (
        SELECT message_id, destination, ordering_key FROM {table} WHERE state = 'WAITING'
        ORDER BY destination, ordering_key, put_number LIMIT 1
    )
    UNION ALL
    SELECT following.* FROM first, LATERAL (
        SELECT message_id, destination, ordering_key FROM {table}
        WHERE state = 'WAITING' AND (destination, ordering_key) > (first.destination, first.ordering_key)
        ORDER BY destination, ordering_key, put_number LIMIT 1
    ) following
)
UPDATE {table} outbox SET attempt = attempt + 1, token = token + 1, worker_id = %(worker_id)s,
    attempt_time = clock_timestamp(), due_time = clock_timestamp() + make_interval(secs => %(lease_s)s),
    hold_time = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE message_id = (
    SELECT waiting.message_id FROM {table} waiting
    WHERE waiting.message_id = ANY (ARRAY(SELECT message_id FROM first)) AND waiting.state = 'WAITING'
      AND waiting.due_time <= clock_timestamp()
      AND (waiting.attempt = 0 OR waiting.give_up_time > clock_timestamp())
      AND waiting.destination <> ALL (ARRAY(
          SELECT held.destination FROM {table} held
          WHERE held.state = 'WAITING' AND held.hold_time > (SELECT clock_timestamp())
      ))
      AND (%(troubled)s OR waiting.destination <> ALL (ARRAY(
          SELECT DISTINCT failed.destination FROM {table} failed
          WHERE failed.state = 'WAITING' AND failed.error_reason <> ''
      )))
    ORDER BY waiting.attempt, waiting.put_number FOR UPDATE OF waiting SKIP LOCKED LIMIT 1
)
RETURNING message_id, destination, body, put_time, attempt, token, EXISTS (
    SELECT FROM {table} failed
    WHERE failed.state = 'WAITING' AND failed.error_reason <> '' AND failed.destination = outbox.destination
) AS troubled
"""

_MINE: LiteralString = "message_id = %(message_id)s AND token = %(token)s AND state = 'WAITING'"
# What arrived has arrived, even if it had been given up meanwhile. What has ended keeps no body: nobody reads it again.
DELIVERED: LiteralString = """
UPDATE {table} SET state = 'DELIVERED', body = '', end_time = clock_timestamp(), error_reason = '', error_message = ''
WHERE message_id = %(message_id)s AND token = %(token)s AND state <> 'DELIVERED'
"""
_LATE: LiteralString = "clock_timestamp() + make_interval(secs => %(delay_s)s) >= give_up_time"
PUT_BACK: LiteralString = (
    "UPDATE {table} SET state = CASE WHEN " + _LATE + " THEN 'FAILED' ELSE 'WAITING' END,"  # noqa: S608 - ours, all of it
    "    end_time = CASE WHEN " + _LATE + " THEN clock_timestamp() END,"
    "    body = CASE WHEN " + _LATE + " THEN '' ELSE body END,"
    """
    due_time = clock_timestamp() + make_interval(secs => %(delay_s)s),
    hold_time = clock_timestamp() + make_interval(secs => %(hold_s)s),
    error_reason = %(reason)s, error_message = %(message)s
WHERE """ + _MINE + " RETURNING state"
)
FAIL: LiteralString = (
    """
UPDATE {table} SET error_reason = %(reason)s, error_message = %(message)s, state = 'FAILED', body = '',
    end_time = clock_timestamp()
WHERE """
    + _MINE
)
# A message whose every attempt took its process down with it is given up by whoever looks.
GIVE_UP: LiteralString = """
UPDATE {table} SET state = 'FAILED', body = '', end_time = clock_timestamp(),
    error_reason = CASE error_reason WHEN '' THEN 'WORKER_LOST' ELSE error_reason END,
    error_message = CASE error_reason WHEN '' THEN 'whoever sent it was lost on the way' ELSE error_message END
WHERE message_id = ANY (ARRAY(
    SELECT message_id FROM {table}
    WHERE state = 'WAITING' AND attempt > 0 AND due_time <= clock_timestamp() AND give_up_time <= clock_timestamp()
    ORDER BY put_number LIMIT %(limit)s FOR UPDATE SKIP LOCKED
))
"""
DROP_DESTINATION: LiteralString = """
UPDATE {table} SET state = 'FAILED', body = '', end_time = clock_timestamp(), error_reason = %(reason)s,
    error_message = %(message)s
WHERE destination = %(destination)s AND state = 'WAITING'
"""
EXPIRE: LiteralString = """
DELETE FROM {table} WHERE message_id = ANY (ARRAY(
    SELECT message_id FROM {table}
    WHERE state = %(state)s AND end_time <= (SELECT clock_timestamp() - make_interval(secs => %(kept_s)s))
    ORDER BY end_time LIMIT %(limit)s FOR UPDATE SKIP LOCKED
))
"""
# Of a destination that is down for weeks the latest are told, and no more.
BOUND: LiteralString = """
DELETE FROM {table} WHERE message_id = ANY (ARRAY(
    SELECT failed.message_id FROM (SELECT DISTINCT destination FROM {table} WHERE state = 'FAILED') each
    CROSS JOIN LATERAL (
        SELECT put_number FROM {table} kept WHERE kept.state = 'FAILED' AND kept.destination = each.destination
        ORDER BY put_number DESC OFFSET %(max_failed)s LIMIT 1
    ) first_over
    JOIN {table} failed ON failed.state = 'FAILED' AND failed.destination = each.destination
        AND failed.put_number <= first_over.put_number
    LIMIT %(limit)s FOR UPDATE OF failed SKIP LOCKED
))
"""

DESTINATIONS: LiteralString = """
SELECT each.destination,
    (SELECT count(*) FROM {table} box WHERE box.destination = each.destination AND box.state = 'WAITING')
        AS waiting_count,
    (SELECT count(*) FROM {table} box WHERE box.destination = each.destination AND box.state = 'FAILED')
        AS failed_count,
    (SELECT max(end_time) FROM {table} box WHERE box.destination = each.destination AND box.state = 'DELIVERED')
        AS last_delivery_time,
    latest.attempt_time AS last_attempt_time, coalesce(latest.error_message, '') AS last_error
FROM unnest(%(destinations)s::text[]) AS each (destination)
LEFT JOIN LATERAL (
    SELECT attempt_time, error_message FROM {table} box
    WHERE box.destination = each.destination AND attempt_time IS NOT NULL ORDER BY attempt_time DESC LIMIT 1
) latest ON true
"""
DELIVERIES: LiteralString = """
SELECT message_id, CASE WHEN state = 'DELIVERED' THEN end_time END AS delivery_time, state = 'FAILED' AS given_up,
    error_message AS last_error
FROM {table} WHERE message_id = ANY(%(message_ids)s)
"""
COUNTS: LiteralString = """
SELECT (SELECT count(*) FROM {table} WHERE state = 'WAITING') AS waiting,
    (SELECT count(*) FROM {table} WHERE state = 'FAILED') AS failed,
    (SELECT max(end_time) FROM {table} WHERE state = 'FAILED') AS last_failure_time,
    coalesce((
        SELECT extract(epoch FROM clock_timestamp() - min(put_time)) FROM {table} WHERE state = 'WAITING'
    ), 0)::float8 AS oldest_age_s
"""
NOTIFY: LiteralString = "SELECT pg_notify(%(channel)s, '')"
