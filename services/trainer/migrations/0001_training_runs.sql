-- Training runs. The first columns, the constraints and the table of workers are those of every table of jobs: see
-- services/common/jobs/columns.sql.
CREATE TABLE trainer.training_runs (
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
    model              text        NOT NULL,
    type               text        NOT NULL,
    executor           text        NOT NULL DEFAULT 'LOCAL',
    recipe             text        NOT NULL,
    parameters         jsonb       NOT NULL DEFAULT '{}',
    data_source        text        NOT NULL DEFAULT '',
    config_version     integer     NOT NULL DEFAULT 0,                     -- of the model's training config; 0: none
    parent_version     text        NOT NULL DEFAULT '',
    requested_by       text        NOT NULL DEFAULT '',                    -- who wanted it, where a service asked
    retraining_request_id text     NOT NULL DEFAULT '',
    note               text        NOT NULL DEFAULT '',
    phase              text        NOT NULL DEFAULT 'TRAINING',
    dataset            text        NOT NULL DEFAULT '',                    -- NAME/VERSION, once it is known
    split_id           text        NOT NULL DEFAULT '',
    part_counts        jsonb       NOT NULL DEFAULT '{}',                  -- rows by part
    outcome            jsonb,                                              -- what the recipe left
    new_version        text        NOT NULL DEFAULT '',                    -- as asked for, or as generated; kept at once
    new_version_stage  text        NOT NULL DEFAULT '',
    version_generated  boolean     NOT NULL DEFAULT false,                 -- new_version is; another may take its place
    registered         boolean     NOT NULL DEFAULT false,
    validation_passed  boolean,
    shortfalls         jsonb       NOT NULL DEFAULT '[]',
    evaluation_id      bigint      NOT NULL DEFAULT 0,
    profile_id         text        NOT NULL DEFAULT '',
    message            text        NOT NULL DEFAULT '',                    -- what it is at, for people
    CONSTRAINT training_runs_pkey PRIMARY KEY (job_id),
    CONSTRAINT training_runs_state CHECK (state IN ('QUEUED', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED')),
    CONSTRAINT training_runs_lease CHECK ((state = 'RUNNING') = (lease_expire_time IS NOT NULL)),
    CONSTRAINT training_runs_end CHECK ((state IN ('COMPLETED', 'FAILED', 'CANCELLED')) = (end_time IS NOT NULL))
);
CREATE UNIQUE INDEX training_runs_request ON trainer.training_runs (created_by, request_id) WHERE request_id <> '';
CREATE INDEX training_runs_queue ON trainer.training_runs (priority, create_number) WHERE state = 'QUEUED';
CREATE INDEX training_runs_running ON trainer.training_runs (limit_key) WHERE state = 'RUNNING';
CREATE INDEX training_runs_leases ON trainer.training_runs (lease_expire_time) WHERE state = 'RUNNING';
CREATE INDEX training_runs_started ON trainer.training_runs (start_time) WHERE start_time IS NOT NULL AND end_time IS NULL;
CREATE INDEX training_runs_states ON trainer.training_runs (state, create_number DESC) INCLUDE (due_time);
CREATE INDEX training_runs_owner ON trainer.training_runs (created_by, create_number DESC);
CREATE INDEX training_runs_ended ON trainer.training_runs (end_time) WHERE end_time IS NOT NULL;
CREATE UNIQUE INDEX training_runs_newest ON trainer.training_runs (create_number DESC);

-- Who works on them: a row a process, written again while it lives.
CREATE TABLE trainer.training_runs_workers (
    worker_id   text        NOT NULL,
    slot_count  integer     NOT NULL,                                      -- how many it works on at once
    busy_count  integer     NOT NULL DEFAULT 0,
    start_time  timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT training_runs_workers_pkey PRIMARY KEY (worker_id)
);

CREATE INDEX training_runs_model ON trainer.training_runs (model, create_number DESC);
CREATE INDEX training_runs_unended ON trainer.training_runs (created_by) WHERE end_time IS NULL;

-- What a recipe told of each epoch; told again after a rescue, the later one stands.
CREATE TABLE trainer.training_epochs (
    run_id  uuid        NOT NULL,
    number  bigint      NOT NULL,
    metrics jsonb       NOT NULL,
    attempt integer     NOT NULL,
    time    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT training_epochs_pkey PRIMARY KEY (run_id, number),
    CONSTRAINT training_epochs_run FOREIGN KEY (run_id) REFERENCES trainer.training_runs ON DELETE CASCADE
);

-- What it printed, in pieces; between the first and the last two MiB there may be a gap.
CREATE TABLE trainer.training_logs (
    run_id       uuid   NOT NULL,
    begin_offset bigint NOT NULL,
    chunk        bytea  NOT NULL,
    CONSTRAINT training_logs_pkey PRIMARY KEY (run_id, begin_offset),
    CONSTRAINT training_logs_run FOREIGN KEY (run_id) REFERENCES trainer.training_runs ON DELETE CASCADE
);

-- Every blob of this service. A row is there before its bytes can be seen, and goes after them.
CREATE TABLE trainer.blobs (
    sha256       text        NOT NULL,
    touch_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    condemn_time timestamptz,                                              -- when nothing named it any more
    delete_time  timestamptz,                                              -- when its deletion began
    CONSTRAINT blobs_pkey PRIMARY KEY (sha256)
);
CREATE INDEX blobs_deleting ON trainer.blobs (sha256) WHERE delete_time IS NOT NULL;

-- What names a blob: a dataset's version its Parquet file, a run its checkpoint and what it left, by the owner's id.
CREATE TABLE trainer.named_blobs (
    owner_id   uuid   NOT NULL,
    name       text   NOT NULL,
    sha256     text   NOT NULL,
    size_bytes bigint NOT NULL,
    CONSTRAINT named_blobs_pkey PRIMARY KEY (owner_id, name)
);
CREATE INDEX named_blobs_sha256 ON trainer.named_blobs (sha256);
