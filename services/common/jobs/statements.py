"""The SQL of a table of jobs. Times are the database's alone: no statement takes one from whoever runs it."""

from __future__ import annotations

from typing import Final, LiteralString

# A job whose time has not come is PENDING to its readers; the row says QUEUED, so that nothing need happen by itself.
STATE: LiteralString = "(CASE WHEN state = 'QUEUED' AND due_time > clock_timestamp() THEN 'PENDING' ELSE state END)"

IF_RUNNING: LiteralString = "(state <> 'RUNNING' OR {} = {})"

COMMON: Final = """job_id, create_number, priority, limit_key, created_by, request_id, body_sha256, create_time,
due_time, start_time, claim_time, end_time, attempt, max_attempts, token, worker_id, lease_expire_time, cancel_time,
soft_limit_ms, hard_limit_ms, queued_ms, done_count, failed_count, total_count, claim_count, update_time, error_reason,
error_message, error_detail, result"""

SELECT: LiteralString = (
    "SELECT jobs.*, " + STATE + " AS seen_state, clock_timestamp() AS read_time FROM {table} jobs"  # noqa: S608 - ours
)

INSERT: LiteralString = """
INSERT INTO {table} (job_id, created_by, request_id, body_sha256, priority, limit_key, due_time, max_attempts,
    soft_limit_ms, hard_limit_ms{names})
VALUES (%(job_id)s, %(created_by)s, %(request_id)s, %(body_sha256)s, %(priority)s, %(limit_key)s,
    greatest(coalesce(%(due_time)s, clock_timestamp()), clock_timestamp()), %(max_attempts)s,
    %(soft_limit_ms)s, %(hard_limit_ms)s{values})
ON CONFLICT (created_by, request_id) WHERE request_id <> '' DO NOTHING
"""
FORGET_REQUEST: LiteralString = """
UPDATE {table} SET request_id = ''
WHERE created_by = %(created_by)s AND request_id = %(request_id)s AND request_id <> ''
  AND create_time <= clock_timestamp() - make_interval(days => %(kept_days)s)
"""
FIND_REQUEST: LiteralString = """
SELECT job_id, body_sha256 FROM {table} WHERE created_by = %(created_by)s AND request_id = %(request_id)s
"""

# What nobody tells the database: a worker that died, a limit that passed. Whoever looks first writes it down. Rows that
# another holds are left to whoever holds them. It is asked all the time: each case has its index, small while few run.
SWEEP: LiteralString = """
WITH late AS (
    SELECT job_id, cancel_time IS NOT NULL AS cancelled,
        coalesce(start_time + make_interval(secs => hard_limit_ms / 1000.0) <= clock_timestamp(), false) AS over,
        coalesce(lease_expire_time <= clock_timestamp(), false) AS orphaned, attempt >= max_attempts AS spent
    FROM {table}
    WHERE job_id = ANY (ARRAY(
        SELECT job_id FROM {table} WHERE state = 'RUNNING' AND lease_expire_time <= clock_timestamp()
        UNION ALL
        SELECT job_id FROM {table} WHERE start_time IS NOT NULL AND end_time IS NULL
          AND start_time + make_interval(secs => hard_limit_ms / 1000.0) <= clock_timestamp()
    )) AND ( -- again, of the row as it is once it is locked
        (state = 'RUNNING' AND lease_expire_time <= clock_timestamp())
        OR (end_time IS NULL AND start_time + make_interval(secs => hard_limit_ms / 1000.0) <= clock_timestamp())
    )
    FOR UPDATE SKIP LOCKED
), judged AS (
    SELECT job_id, CASE WHEN cancelled THEN 'CANCELLED' WHEN over OR spent THEN 'FAILED' ELSE 'QUEUED' END AS next,
        CASE WHEN cancelled THEN '' WHEN over THEN 'HARD_LIMIT' WHEN spent THEN 'WORKER_LOST' ELSE '' END AS reason
    FROM late
)
UPDATE {table} jobs SET state = next, lease_expire_time = NULL,
    due_time = CASE WHEN next = 'QUEUED' THEN clock_timestamp() ELSE due_time END,
    end_time = CASE WHEN next = 'QUEUED' THEN NULL ELSE clock_timestamp() END,
    error_reason = reason, update_time = clock_timestamp(), error_detail = '',
    error_message = CASE reason
        WHEN 'HARD_LIMIT' THEN 'it took longer than its hard limit of ' || hard_limit_ms || ' ms'
        WHEN 'WORKER_LOST' THEN 'its worker was lost ' || attempt || ' times; it is not tried again by itself'
        ELSE '' END
FROM judged WHERE jobs.job_id = judged.job_id
RETURNING jobs.*, state AS seen_state, clock_timestamp() AS read_time
"""

# Limits are counted, and so claims that heed one go one after another.
LOCK_CLAIMS: LiteralString = "SELECT pg_advisory_xact_lock(hashtextextended(%(name)s, 0))"
CLAIM: LiteralString = """
UPDATE {table} jobs SET state = 'RUNNING', attempt = attempt + 1, token = token + 1, worker_id = %(worker_id)s,
    claim_time = clock_timestamp(), claim_count = done_count, start_time = coalesce(start_time, clock_timestamp()),
    lease_expire_time = clock_timestamp() + make_interval(secs => %(lease_s)s), update_time = clock_timestamp(),
    queued_ms = queued_ms + greatest(0, extract(epoch FROM clock_timestamp() - due_time) * 1000)::bigint
WHERE job_id = (
    SELECT waiting.job_id FROM {table} waiting
    WHERE waiting.state = 'QUEUED' AND waiting.due_time <= clock_timestamp()
      AND (%(total)s::integer IS NULL
           OR (SELECT count(*) FROM {table} WHERE state = 'RUNNING') < %(total)s)
      AND (%(per_key)s::integer IS NULL OR waiting.limit_key = ''
           OR (SELECT count(*) FROM {table} held
               WHERE held.state = 'RUNNING' AND held.limit_key = waiting.limit_key) < %(per_key)s)
    ORDER BY waiting.priority, waiting.create_number FOR UPDATE OF waiting SKIP LOCKED LIMIT 1
)
RETURNING jobs.*, state AS seen_state, clock_timestamp() AS read_time
"""

_HELD: LiteralString = (
    "job_id = %(job_id)s AND token = %(token)s AND state = 'RUNNING' AND lease_expire_time > clock_timestamp()"
)
HOLD: LiteralString = "SELECT 1 FROM {table} WHERE " + _HELD + " FOR UPDATE"  # noqa: S608 - a constant of ours
# One row that somebody has locked must not keep the other leases waiting until they are over.
RENEW: LiteralString = """
UPDATE {table} jobs SET lease_expire_time = clock_timestamp() + make_interval(secs => %(lease_s)s)
WHERE job_id = ANY (ARRAY(
    SELECT jobs.job_id
    FROM {table} jobs JOIN unnest(%(job_ids)s::uuid[], %(tokens)s::bigint[]) AS held (job_id, token) USING (job_id)
    WHERE jobs.token = held.token AND state = 'RUNNING' AND lease_expire_time > clock_timestamp()
    FOR UPDATE OF jobs SKIP LOCKED
))
RETURNING jobs.job_id
"""
STANDINGS: LiteralString = """
SELECT jobs.job_id, cancel_time IS NOT NULL AS cancelled,
    coalesce(start_time + make_interval(secs => soft_limit_ms / 1000.0) <= clock_timestamp(), false)
        AS soft_limit_passed
FROM {table} jobs JOIN unnest(%(job_ids)s::uuid[], %(tokens)s::bigint[]) AS held (job_id, token) USING (job_id)
WHERE jobs.token = held.token AND state = 'RUNNING' AND lease_expire_time > clock_timestamp()
  AND coalesce(start_time + make_interval(secs => hard_limit_ms / 1000.0) > clock_timestamp(), true)
"""
REPORT: LiteralString = """
UPDATE {table} SET done_count = %(done)s, failed_count = %(failed)s, total_count = %(total)s,
    update_time = clock_timestamp()
WHERE job_id = %(job_id)s
"""
END: LiteralString = """
UPDATE {table} jobs SET state = %(state)s, end_time = clock_timestamp(), lease_expire_time = NULL,
    update_time = clock_timestamp(), result = %(result)s, error_reason = %(reason)s, error_message = %(message)s,
    error_detail = %(detail)s
WHERE job_id = %(job_id)s
RETURNING jobs.*, state AS seen_state, clock_timestamp() AS read_time
"""
# Whoever asked for the job's end gets it here, where the run ended by something else before it heard of that.
PUT_BACK: LiteralString = """
UPDATE {table} jobs SET state = CASE WHEN cancel_time IS NULL THEN 'QUEUED' ELSE 'CANCELLED' END,
    end_time = CASE WHEN cancel_time IS NULL THEN NULL ELSE clock_timestamp() END,
    lease_expire_time = NULL, attempt = attempt - %(uncounted)s,
    due_time = clock_timestamp() + make_interval(secs => %(delay_s)s), update_time = clock_timestamp(),
    error_reason = CASE WHEN cancel_time IS NULL THEN %(reason)s ELSE '' END,
    error_message = CASE WHEN cancel_time IS NULL THEN %(message)s ELSE '' END,
    error_detail = CASE WHEN cancel_time IS NULL THEN %(detail)s ELSE '' END
WHERE job_id = %(job_id)s
RETURNING jobs.*, state AS seen_state, clock_timestamp() AS read_time
"""

CANCEL: LiteralString = """
UPDATE {table} SET cancel_time = coalesce(cancel_time, clock_timestamp()), update_time = clock_timestamp(),
    state = CASE state WHEN 'QUEUED' THEN 'CANCELLED' ELSE state END,
    end_time = CASE state WHEN 'QUEUED' THEN clock_timestamp() ELSE end_time END
WHERE job_id = %(job_id)s AND state IN ('QUEUED', 'RUNNING')
"""
RETRY: LiteralString = """
UPDATE {table} SET state = 'QUEUED', attempt = 0, start_time = NULL, end_time = NULL, cancel_time = NULL,
    due_time = clock_timestamp(), update_time = clock_timestamp(), result = NULL,
    error_reason = '', error_message = '', error_detail = '',
    done_count = CASE WHEN %(anew)s THEN 0 ELSE done_count END,
    failed_count = CASE WHEN %(anew)s THEN 0 ELSE failed_count END,
    total_count = CASE WHEN %(anew)s THEN NULL ELSE total_count END
WHERE job_id = %(job_id)s AND state IN ('FAILED', 'CANCELLED')
"""
DELETE: LiteralString = """
DELETE FROM {table} WHERE job_id = %(job_id)s AND state IN ('COMPLETED', 'FAILED', 'CANCELLED')
"""
# The time is looked up once, and so the index knows where to end.
EXPIRE: LiteralString = """
DELETE FROM {table} WHERE job_id = ANY (ARRAY(
    SELECT job_id FROM {table}
    WHERE end_time <= (SELECT clock_timestamp() - make_interval(secs => %(kept_s)s))
    ORDER BY end_time LIMIT %(limit)s FOR UPDATE SKIP LOCKED
))
"""
# State by state, each from the index alone: nearly all jobs have ended.
COUNTS: LiteralString = """
SELECT each.state, (SELECT count(*) FROM {table} jobs WHERE jobs.state = each.state) AS count
FROM unnest(ARRAY['RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED']) AS each (state)
UNION ALL
SELECT CASE WHEN due_time > clock_timestamp() THEN 'PENDING' ELSE 'QUEUED' END, count(*)
FROM {table} WHERE state = 'QUEUED' GROUP BY 1
"""
OLDEST: LiteralString = """
SELECT coalesce(extract(epoch FROM clock_timestamp() - min(due_time)), 0)::float8 AS age_s FROM {table}
WHERE state = 'QUEUED' AND due_time <= clock_timestamp()
"""

SEEN: LiteralString = """
INSERT INTO {workers} (worker_id, slot_count, busy_count) VALUES (%(worker_id)s, %(slot_count)s, %(busy_count)s)
ON CONFLICT (worker_id) DO UPDATE SET busy_count = EXCLUDED.busy_count, slot_count = EXCLUDED.slot_count,
    seen_time = clock_timestamp()
"""
GONE: LiteralString = "DELETE FROM {workers} WHERE worker_id = %(worker_id)s"
WORKERS: LiteralString = """
SELECT worker_id, slot_count, busy_count, start_time, seen_time,
    seen_time > clock_timestamp() - make_interval(secs => %(live_s)s) AS live
FROM {workers} WHERE seen_time > clock_timestamp() - make_interval(secs => %(shown_s)s) ORDER BY worker_id
"""
FORGET_WORKERS: LiteralString = """
DELETE FROM {workers} WHERE seen_time <= clock_timestamp() - make_interval(secs => %(shown_s)s)
"""
NOTIFY: LiteralString = "SELECT pg_notify(%(channel)s, '')"
