-- Fetches that begin by themselves. Columns from `source` to `max_attempts` are those of the jobs that they make.
CREATE TABLE fetcher.fetch_schedules (
    schedule_id      uuid        NOT NULL,
    create_number    bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    created_by       text        NOT NULL,
    request_id       text        NOT NULL DEFAULT '',
    body_sha256      text        NOT NULL DEFAULT '',                    -- of the request that came with request_id
    create_time      timestamptz NOT NULL DEFAULT clock_timestamp(),
    source           text        NOT NULL,
    reference        text        NOT NULL,
    revision         text        NOT NULL,
    variant          text        NOT NULL,
    sha256           text        NOT NULL,
    target           bytea       NOT NULL,                               -- a serialised FetchTarget
    model            text        NOT NULL,
    version          text        NOT NULL,
    webhook          jsonb,                                              -- as in fetch_jobs
    priority         integer     NOT NULL,
    max_attempts     integer     NOT NULL,
    at_time          timestamptz,                                        -- the only time; NULL: by cron
    cron             text        NOT NULL DEFAULT '',
    time_zone        text        NOT NULL DEFAULT 'UTC',
    auto_update      boolean     NOT NULL,
    enabled          boolean     NOT NULL DEFAULT true,
    next_time        timestamptz,                                        -- NULL: none comes
    last_time        timestamptz,                                        -- the time that came last, as it was planned
    try_count        integer     NOT NULL DEFAULT 0,                     -- of the time that is due, in vain
    try_time         timestamptz,                                        -- when it was tried in vain first
    retry_time       timestamptz,                                        -- when it is tried again; NULL: at once
    end_time         timestamptz,                                        -- when the only time was heeded
    last_job_id      uuid,
    last_job_failed  boolean     NOT NULL DEFAULT false,                 -- known although that job is deleted
    last_revision    text        NOT NULL DEFAULT '',                    -- by what is known again what that job was made for
    last_check_time  timestamptz,                                        -- when the source was looked at last
    error_reason     text        NOT NULL DEFAULT '',                    -- why the last try did nothing
    error_message    text        NOT NULL DEFAULT '',
    error_time       timestamptz,
    look_token       bigint      NOT NULL DEFAULT 0,                     -- grows whenever a look begins, or is void
    look_expire_time timestamptz,                                        -- until then one replica looks at the source
    CONSTRAINT fetch_schedules_pkey PRIMARY KEY (schedule_id),
    CONSTRAINT fetch_schedules_when CHECK ((at_time IS NULL) <> (cron = '')),
    CONSTRAINT fetch_schedules_next CHECK (enabled OR next_time IS NULL),
    CONSTRAINT fetch_schedules_error CHECK ((error_reason = '') = (error_time IS NULL))
);
CREATE UNIQUE INDEX fetch_schedules_request ON fetcher.fetch_schedules (created_by, request_id) WHERE request_id <> '';
CREATE UNIQUE INDEX fetch_schedules_newest ON fetcher.fetch_schedules (create_number DESC);
CREATE INDEX fetch_schedules_due ON fetcher.fetch_schedules (next_time) WHERE next_time IS NOT NULL;
CREATE INDEX fetch_schedules_ended ON fetcher.fetch_schedules (end_time) WHERE end_time IS NOT NULL;

-- The schedule that made a job; NULL: somebody asked for it.
ALTER TABLE fetcher.fetch_jobs ADD COLUMN schedule_id uuid;
CREATE INDEX fetch_jobs_schedule ON fetcher.fetch_jobs (schedule_id, create_number DESC) WHERE schedule_id IS NOT NULL;
