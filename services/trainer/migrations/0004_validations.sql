-- Validations. The first columns, the constraints and the table of workers are those of every table of jobs: see
-- services/common/jobs/columns.sql.
CREATE TABLE trainer.validations (
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
    version            text        NOT NULL,                               -- exact
    against            text        NOT NULL DEFAULT '',                    -- exact; '': it is compared with nothing
    data_source        text        NOT NULL DEFAULT '',
    rows               text        NOT NULL DEFAULT 'TEST',
    split              jsonb,                                              -- as the training config said
    label_column       text        NOT NULL DEFAULT 'label',
    slices             jsonb       NOT NULL DEFAULT '[]',
    note               text        NOT NULL DEFAULT '',
    dataset            text        NOT NULL DEFAULT '',                    -- NAME/VERSION, once it is known
    message            text        NOT NULL DEFAULT '',                    -- what it is at, for people
    training_run_id    text        NOT NULL DEFAULT '',                    -- of a run's own, which no worker claims
    CONSTRAINT validations_pkey PRIMARY KEY (job_id),
    CONSTRAINT validations_state CHECK (state IN ('QUEUED', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED')),
    CONSTRAINT validations_lease CHECK ((state = 'RUNNING') = (lease_expire_time IS NOT NULL)),
    CONSTRAINT validations_end CHECK ((state IN ('COMPLETED', 'FAILED', 'CANCELLED')) = (end_time IS NOT NULL))
);
CREATE UNIQUE INDEX validations_request ON trainer.validations (created_by, request_id) WHERE request_id <> '';
CREATE INDEX validations_queue ON trainer.validations (priority, create_number) WHERE state = 'QUEUED';
CREATE INDEX validations_running ON trainer.validations (limit_key) WHERE state = 'RUNNING';
CREATE INDEX validations_leases ON trainer.validations (lease_expire_time) WHERE state = 'RUNNING';
CREATE INDEX validations_started ON trainer.validations (start_time) WHERE start_time IS NOT NULL AND end_time IS NULL;
CREATE INDEX validations_states ON trainer.validations (state, create_number DESC) INCLUDE (due_time);
CREATE INDEX validations_owner ON trainer.validations (created_by, create_number DESC);
CREATE INDEX validations_ended ON trainer.validations (end_time) WHERE end_time IS NOT NULL;
CREATE UNIQUE INDEX validations_newest ON trainer.validations (create_number DESC);

-- Who works on them: a row a process, written again while it lives.
CREATE TABLE trainer.validations_workers (
    worker_id   text        NOT NULL,
    slot_count  integer     NOT NULL,                                      -- how many it works on at once
    busy_count  integer     NOT NULL DEFAULT 0,
    start_time  timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT validations_workers_pkey PRIMARY KEY (worker_id)
);

CREATE INDEX validations_model ON trainer.validations (model, create_number DESC);
CREATE INDEX validations_version ON trainer.validations (model, version, create_number DESC);
CREATE INDEX validations_unended ON trainer.validations (created_by) WHERE end_time IS NULL;
