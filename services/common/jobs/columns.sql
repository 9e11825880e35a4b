-- The columns that every table of jobs has; services/common/jobs reads and writes them by these names.
-- A service's migration repeats this text with its own columns in the place of {columns}, and its own names in those of
-- {schema} and {table}; a test holds each such table to this file. Later changes of this file are migrations there.
CREATE TABLE {schema}.{table} (
    job_id             uuid        NOT NULL,
    create_number      bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,  -- first in, first out, whatever the clocks say
    state              text        NOT NULL DEFAULT 'QUEUED',
    priority           integer     NOT NULL DEFAULT 5,                     -- 1 goes first
    limit_key          text        NOT NULL DEFAULT '',                    -- jobs of one key share a limit; '': none
    created_by         text        NOT NULL,
    request_id         text        NOT NULL DEFAULT '',
    body_sha256        text        NOT NULL DEFAULT '',                    -- of the request that came with request_id
    create_time        timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_time           timestamptz NOT NULL DEFAULT clock_timestamp(),     -- not claimed before
    start_time         timestamptz,                                        -- of the first attempt: limits count from it
    claim_time         timestamptz,                                        -- of the latest attempt
    end_time           timestamptz,
    attempt            integer     NOT NULL DEFAULT 0,                     -- claims so far, those that died included
    max_attempts       integer     NOT NULL DEFAULT 5,
    token              bigint      NOT NULL DEFAULT 0,                     -- grows whenever the lease changes hands
    worker_id          text        NOT NULL DEFAULT '',                    -- who has it, or had it last
    lease_expire_time  timestamptz,
    cancel_time        timestamptz,                                        -- when somebody asked for its end
    soft_limit_ms      bigint,
    hard_limit_ms      bigint,
    queued_ms          bigint      NOT NULL DEFAULT 0,                     -- due and unclaimed, over all attempts
    done_count         bigint      NOT NULL DEFAULT 0,                     -- progress, in the work's own unit
    failed_count       bigint      NOT NULL DEFAULT 0,
    total_count        bigint,
    claim_count        bigint      NOT NULL DEFAULT 0,                     -- what was done when the latest attempt began
    update_time        timestamptz NOT NULL DEFAULT clock_timestamp(),
    error_reason       text        NOT NULL DEFAULT '',
    error_message      text        NOT NULL DEFAULT '',
    error_detail       text        NOT NULL DEFAULT '',                    -- for operators
    result             jsonb,
    {columns}
    CONSTRAINT {table}_pkey PRIMARY KEY (job_id),
    CONSTRAINT {table}_state CHECK (state IN ('QUEUED', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED')),
    CONSTRAINT {table}_lease CHECK ((state = 'RUNNING') = (lease_expire_time IS NOT NULL)),
    CONSTRAINT {table}_end CHECK ((state IN ('COMPLETED', 'FAILED', 'CANCELLED')) = (end_time IS NOT NULL))
);
CREATE UNIQUE INDEX {table}_request ON {schema}.{table} (created_by, request_id) WHERE request_id <> '';
CREATE INDEX {table}_queue ON {schema}.{table} (priority, create_number) WHERE state = 'QUEUED';
CREATE INDEX {table}_running ON {schema}.{table} (limit_key) WHERE state = 'RUNNING';
CREATE INDEX {table}_leases ON {schema}.{table} (lease_expire_time) WHERE state = 'RUNNING';
CREATE INDEX {table}_started ON {schema}.{table} (start_time) WHERE start_time IS NOT NULL AND end_time IS NULL;
CREATE INDEX {table}_states ON {schema}.{table} (state, create_number DESC) INCLUDE (due_time);
CREATE INDEX {table}_owner ON {schema}.{table} (created_by, create_number DESC);
CREATE INDEX {table}_ended ON {schema}.{table} (end_time) WHERE end_time IS NOT NULL;
CREATE UNIQUE INDEX {table}_newest ON {schema}.{table} (create_number DESC);

-- Who works on them: a row a process, written again while it lives.
CREATE TABLE {schema}.{table}_workers (
    worker_id   text        NOT NULL,
    slot_count  integer     NOT NULL,                                      -- how many it works on at once
    busy_count  integer     NOT NULL DEFAULT 0,
    start_time  timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT {table}_workers_pkey PRIMARY KEY (worker_id)
);
