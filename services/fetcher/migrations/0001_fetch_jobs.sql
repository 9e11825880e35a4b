-- Fetches. The first columns, the constraints and the table of workers are those of every table of jobs: see
-- services/common/jobs/columns.sql.
CREATE TABLE fetcher.fetch_jobs (
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
    source             text        NOT NULL,
    reference          text        NOT NULL,                               -- in the source's own terms
    revision           text        NOT NULL DEFAULT '',
    variant            text        NOT NULL DEFAULT '',
    sha256             text        NOT NULL DEFAULT '',                    -- that the only file must have
    target             bytea       NOT NULL,                               -- a serialised FetchTarget
    model              text        NOT NULL DEFAULT '',                    -- as asked for, or as it was chosen
    version            text        NOT NULL DEFAULT '',                    -- likewise; never changes once registered
    phase              text        NOT NULL DEFAULT 'DOWNLOADING',
    plan               jsonb,                                              -- what is fetched, once the source answered
    reused_bytes       bigint      NOT NULL DEFAULT 0,
    done_files         integer     NOT NULL DEFAULT 0,
    bytes_per_second   bigint      NOT NULL DEFAULT 0,                     -- that come from the source, lately
    CONSTRAINT fetch_jobs_pkey PRIMARY KEY (job_id),
    CONSTRAINT fetch_jobs_state CHECK (state IN ('QUEUED', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED')),
    CONSTRAINT fetch_jobs_lease CHECK ((state = 'RUNNING') = (lease_expire_time IS NOT NULL)),
    CONSTRAINT fetch_jobs_end CHECK ((state IN ('COMPLETED', 'FAILED', 'CANCELLED')) = (end_time IS NOT NULL))
);
CREATE UNIQUE INDEX fetch_jobs_request ON fetcher.fetch_jobs (created_by, request_id) WHERE request_id <> '';
CREATE INDEX fetch_jobs_queue ON fetcher.fetch_jobs (priority, create_number) WHERE state = 'QUEUED';
CREATE INDEX fetch_jobs_running ON fetcher.fetch_jobs (limit_key) WHERE state = 'RUNNING';
CREATE INDEX fetch_jobs_leases ON fetcher.fetch_jobs (lease_expire_time) WHERE state = 'RUNNING';
CREATE INDEX fetch_jobs_started ON fetcher.fetch_jobs (start_time) WHERE start_time IS NOT NULL AND end_time IS NULL;
CREATE INDEX fetch_jobs_states ON fetcher.fetch_jobs (state, create_number DESC) INCLUDE (due_time);
CREATE INDEX fetch_jobs_owner ON fetcher.fetch_jobs (created_by, create_number DESC);
CREATE INDEX fetch_jobs_ended ON fetcher.fetch_jobs (end_time) WHERE end_time IS NOT NULL;
CREATE UNIQUE INDEX fetch_jobs_newest ON fetcher.fetch_jobs (create_number DESC);

-- Who works on them: a row a process, written again while it lives.
CREATE TABLE fetcher.fetch_jobs_workers (
    worker_id   text        NOT NULL,
    slot_count  integer     NOT NULL,                                      -- how many it works on at once
    busy_count  integer     NOT NULL DEFAULT 0,
    start_time  timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT fetch_jobs_workers_pkey PRIMARY KEY (worker_id)
);

CREATE INDEX fetch_jobs_model ON fetcher.fetch_jobs (model, create_number DESC);
CREATE INDEX fetch_jobs_source ON fetcher.fetch_jobs (source, create_number DESC);
CREATE INDEX fetch_jobs_unended ON fetcher.fetch_jobs (created_by) WHERE end_time IS NULL;

-- Files on their way, or here whole. One job brings a file at a time; others that want the same wait for it.
CREATE TABLE fetcher.downloads (
    download_id uuid        NOT NULL,
    identity    text        NOT NULL,                                      -- where the bytes lie, and what changes with them
    job_id      uuid,                                                      -- who brings it
    part_bytes  bigint      NOT NULL,                                      -- of each part but the last
    sha256      text        NOT NULL DEFAULT '',                           -- once it is whole and checked
    size_bytes  bigint      NOT NULL DEFAULT 0,                            -- likewise
    use_time    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT downloads_pkey PRIMARY KEY (download_id),
    CONSTRAINT downloads_identity UNIQUE (identity)
);
CREATE INDEX downloads_use ON fetcher.downloads (use_time);
CREATE INDEX downloads_sha256 ON fetcher.downloads (sha256, use_time) WHERE sha256 <> '';

-- Their bytes, each in a blob: part n begins at n times part_bytes. Until the download is whole, any may lack.
CREATE TABLE fetcher.download_parts (
    download_id uuid    NOT NULL,
    part_number integer NOT NULL,
    sha256      text    NOT NULL,
    size_bytes  bigint  NOT NULL,
    job_id      uuid    NOT NULL,                                          -- who brought it
    CONSTRAINT download_parts_pkey PRIMARY KEY (download_id, part_number),
    CONSTRAINT download_parts_download FOREIGN KEY (download_id) REFERENCES fetcher.downloads ON DELETE CASCADE
);
CREATE INDEX download_parts_sha256 ON fetcher.download_parts (sha256);

-- Every blob of this service. A row is there before its bytes can be seen, and goes after them.
CREATE TABLE fetcher.blobs (
    sha256       text        NOT NULL,
    touch_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    condemn_time timestamptz,                                              -- when nothing named it any more
    delete_time  timestamptz,                                              -- when its deletion began
    CONSTRAINT blobs_pkey PRIMARY KEY (sha256)
);
CREATE INDEX blobs_deleting ON fetcher.blobs (sha256) WHERE delete_time IS NOT NULL;
