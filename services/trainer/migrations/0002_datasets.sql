-- Datasets: a name, and the number that its next version gets. Numbers are never given twice, also not those of versions
-- that are deleted.
CREATE TABLE trainer.datasets (
    name         text    NOT NULL,
    next_version integer NOT NULL DEFAULT 1,
    CONSTRAINT datasets_pkey PRIMARY KEY (name)
);

-- Versions of datasets. What is deleted stays until no run that has not ended refers to it.
CREATE TABLE trainer.dataset_versions (
    version_id    uuid        NOT NULL,
    name          text        NOT NULL,
    version       integer     NOT NULL,
    state         text        NOT NULL,
    message       text        NOT NULL DEFAULT '',
    row_count     bigint      NOT NULL DEFAULT 0,
    columns       jsonb       NOT NULL DEFAULT '[]',
    digest        text        NOT NULL DEFAULT '',                         -- of the rows, not of their file
    size_bytes    bigint      NOT NULL DEFAULT 0,
    source        jsonb       NOT NULL,
    description   text        NOT NULL DEFAULT '',
    labels        jsonb       NOT NULL DEFAULT '{}',
    created_by    text        NOT NULL,
    request_id    text        NOT NULL DEFAULT '',
    body_sha256   text        NOT NULL DEFAULT '',                         -- of the request that came with request_id
    create_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    ready_time    timestamptz,
    delete_time   timestamptz,                                             -- nobody sees it from then on
    CONSTRAINT dataset_versions_pkey PRIMARY KEY (version_id),
    CONSTRAINT dataset_versions_number UNIQUE (name, version),
    CONSTRAINT dataset_versions_name FOREIGN KEY (name) REFERENCES trainer.datasets,
    CONSTRAINT dataset_versions_state CHECK (state IN ('BUILDING', 'READY', 'FAILED')),
    CONSTRAINT dataset_versions_ready CHECK ((state = 'READY') = (ready_time IS NOT NULL))
);
CREATE UNIQUE INDEX dataset_versions_request ON trainer.dataset_versions (created_by, request_id) WHERE request_id <> '';
CREATE INDEX dataset_versions_deleted ON trainer.dataset_versions (version_id) WHERE delete_time IS NOT NULL;

-- How a version is divided.
CREATE TABLE trainer.dataset_splits (
    version_id    uuid   NOT NULL,
    split_id      text   NOT NULL,
    create_number bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    split         jsonb  NOT NULL,
    counts        jsonb  NOT NULL,                                         -- rows by part
    CONSTRAINT dataset_splits_pkey PRIMARY KEY (version_id, split_id),
    CONSTRAINT dataset_splits_version FOREIGN KEY (version_id) REFERENCES trainer.dataset_versions ON DELETE CASCADE
);

-- Which versions a run that has not ended reads, in the order of its data source.
CREATE TABLE trainer.dataset_references (
    run_id     uuid    NOT NULL,
    position   integer NOT NULL,
    version_id uuid    NOT NULL,
    CONSTRAINT dataset_references_pkey PRIMARY KEY (run_id, position),
    CONSTRAINT dataset_references_version FOREIGN KEY (version_id) REFERENCES trainer.dataset_versions
);
CREATE INDEX dataset_references_versions ON trainer.dataset_references (version_id);

-- Versions that are being built. The first columns, the constraints and the table of workers are those of every table of
-- jobs: see services/common/jobs/columns.sql.
CREATE TABLE trainer.dataset_builds (
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
    version_id         uuid        NOT NULL,
    CONSTRAINT dataset_builds_pkey PRIMARY KEY (job_id),
    CONSTRAINT dataset_builds_state CHECK (state IN ('QUEUED', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED')),
    CONSTRAINT dataset_builds_lease CHECK ((state = 'RUNNING') = (lease_expire_time IS NOT NULL)),
    CONSTRAINT dataset_builds_end CHECK ((state IN ('COMPLETED', 'FAILED', 'CANCELLED')) = (end_time IS NOT NULL))
);
CREATE UNIQUE INDEX dataset_builds_request ON trainer.dataset_builds (created_by, request_id) WHERE request_id <> '';
CREATE INDEX dataset_builds_queue ON trainer.dataset_builds (priority, create_number) WHERE state = 'QUEUED';
CREATE INDEX dataset_builds_running ON trainer.dataset_builds (limit_key) WHERE state = 'RUNNING';
CREATE INDEX dataset_builds_leases ON trainer.dataset_builds (lease_expire_time) WHERE state = 'RUNNING';
CREATE INDEX dataset_builds_started ON trainer.dataset_builds (start_time) WHERE start_time IS NOT NULL AND end_time IS NULL;
CREATE INDEX dataset_builds_states ON trainer.dataset_builds (state, create_number DESC) INCLUDE (due_time);
CREATE INDEX dataset_builds_owner ON trainer.dataset_builds (created_by, create_number DESC);
CREATE INDEX dataset_builds_ended ON trainer.dataset_builds (end_time) WHERE end_time IS NOT NULL;
CREATE UNIQUE INDEX dataset_builds_newest ON trainer.dataset_builds (create_number DESC);

-- Who works on them: a row a process, written again while it lives.
CREATE TABLE trainer.dataset_builds_workers (
    worker_id   text        NOT NULL,
    slot_count  integer     NOT NULL,                                      -- how many it works on at once
    busy_count  integer     NOT NULL DEFAULT 0,
    start_time  timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT dataset_builds_workers_pkey PRIMARY KEY (worker_id)
);

CREATE INDEX dataset_builds_version ON trainer.dataset_builds (version_id);
CREATE INDEX dataset_builds_unended ON trainer.dataset_builds (created_by) WHERE end_time IS NULL;
