-- Batch predictions. The first columns, the constraints and the table of workers are those of every table of jobs: see
-- services/common/jobs/columns.sql.
CREATE TABLE inference.prediction_jobs (
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
    model              text             NOT NULL,
    version            text             NOT NULL,                          -- as it was asked for
    resolved_version   text             NOT NULL DEFAULT '',               -- once it has run; kept for all of the job
    version_digest     text             NOT NULL DEFAULT '',
    input_kind         text             NOT NULL,
    request            bytea,                                              -- a serialised SingleInput or RowsInput
    input_uri          text             NOT NULL DEFAULT '',
    input_sha256       text             NOT NULL DEFAULT '',
    input_format       text             NOT NULL DEFAULT '',
    output_format      text             NOT NULL,
    outputs            text[]           NOT NULL DEFAULT '{}',
    max_failed_rows    bigint,
    record_events      boolean          NOT NULL,
    user_id            text             NOT NULL DEFAULT '',
    inference_ms       double precision NOT NULL DEFAULT 0,
    CONSTRAINT prediction_jobs_pkey PRIMARY KEY (job_id),
    CONSTRAINT prediction_jobs_state CHECK (state IN ('QUEUED', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED')),
    CONSTRAINT prediction_jobs_lease CHECK ((state = 'RUNNING') = (lease_expire_time IS NOT NULL)),
    CONSTRAINT prediction_jobs_end CHECK ((state IN ('COMPLETED', 'FAILED', 'CANCELLED')) = (end_time IS NOT NULL))
);
CREATE UNIQUE INDEX prediction_jobs_request ON inference.prediction_jobs (created_by, request_id) WHERE request_id <> '';
CREATE INDEX prediction_jobs_queue ON inference.prediction_jobs (priority, create_number) WHERE state = 'QUEUED';
CREATE INDEX prediction_jobs_running ON inference.prediction_jobs (limit_key) WHERE state = 'RUNNING';
CREATE INDEX prediction_jobs_leases ON inference.prediction_jobs (lease_expire_time) WHERE state = 'RUNNING';
CREATE INDEX prediction_jobs_started ON inference.prediction_jobs (start_time) WHERE start_time IS NOT NULL AND end_time IS NULL;
CREATE INDEX prediction_jobs_states ON inference.prediction_jobs (state, create_number DESC) INCLUDE (due_time);
CREATE INDEX prediction_jobs_owner ON inference.prediction_jobs (created_by, create_number DESC);
CREATE INDEX prediction_jobs_ended ON inference.prediction_jobs (end_time) WHERE end_time IS NOT NULL;
CREATE UNIQUE INDEX prediction_jobs_newest ON inference.prediction_jobs (create_number DESC);

-- Who works on them: a row a process, written again while it lives.
CREATE TABLE inference.prediction_jobs_workers (
    worker_id   text        NOT NULL,
    slot_count  integer     NOT NULL,                                      -- how many it works on at once
    busy_count  integer     NOT NULL DEFAULT 0,
    start_time  timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT prediction_jobs_workers_pkey PRIMARY KEY (worker_id)
);

CREATE INDEX prediction_jobs_model ON inference.prediction_jobs (model, create_number DESC);
CREATE INDEX prediction_jobs_result ON inference.prediction_jobs ((result ->> 'sha256')) WHERE result IS NOT NULL;
CREATE INDEX prediction_jobs_unended ON inference.prediction_jobs (created_by) WHERE end_time IS NULL;
CREATE INDEX prediction_jobs_input ON inference.prediction_jobs (input_sha256) WHERE input_sha256 <> '';

-- What is done of a job: the rows from first_row on, in one blob each. Written together with the lease held, so that no
-- row is ever there twice.
CREATE TABLE inference.prediction_chunks (
    job_id       uuid    NOT NULL,
    chunk_number integer NOT NULL,
    first_row    bigint  NOT NULL,
    row_count    bigint  NOT NULL,
    failed_count bigint  NOT NULL,
    sha256       text    NOT NULL,
    CONSTRAINT prediction_chunks_pkey PRIMARY KEY (job_id, chunk_number),
    CONSTRAINT prediction_chunks_first_row UNIQUE (job_id, first_row),
    CONSTRAINT prediction_chunks_job FOREIGN KEY (job_id) REFERENCES inference.prediction_jobs ON DELETE CASCADE
);
CREATE INDEX prediction_chunks_sha256 ON inference.prediction_chunks (sha256);

-- Files that callers sent for jobs to read.
CREATE TABLE inference.prediction_inputs (
    input_id    uuid        NOT NULL,
    sha256      text        NOT NULL,
    size_bytes  bigint      NOT NULL,
    created_by  text        NOT NULL,
    create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT prediction_inputs_pkey PRIMARY KEY (input_id)
);
CREATE INDEX prediction_inputs_sha256 ON inference.prediction_inputs (sha256);
CREATE INDEX prediction_inputs_owner ON inference.prediction_inputs (created_by);
CREATE INDEX prediction_inputs_time ON inference.prediction_inputs (create_time);

-- Every blob of this service. A row is there before its bytes can be seen, and goes after them.
CREATE TABLE inference.blobs (
    sha256       text        NOT NULL,
    touch_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    condemn_time timestamptz,                                              -- when nothing named it any more
    delete_time  timestamptz,                                              -- when its deletion began
    CONSTRAINT blobs_pkey PRIMARY KEY (sha256)
);
CREATE INDEX blobs_deleting ON inference.blobs (sha256) WHERE delete_time IS NOT NULL;
