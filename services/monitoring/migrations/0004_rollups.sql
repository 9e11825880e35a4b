-- Which spans are to be counted anew. Ingest appends a mark for each bucket of 5 minutes that a transaction of its
-- touches, in that transaction; whoever recounts a bucket deletes the marks that its snapshot sees. Without a key on
-- purpose: a mark that comes while its bucket is counted must outlive that count, and senders must not wait for each
-- other.
CREATE TABLE rollup_marks (
    granularity smallint    NOT NULL,  -- 1: 5 minutes, 2: an hour, 3: a day
    start_time  timestamptz NOT NULL,
    model       text        NOT NULL,
    version     text        NOT NULL,
    set_aside   boolean     NOT NULL DEFAULT false  -- one for all of its bucket, while rollups are switched off
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
CREATE INDEX rollup_marks_span ON rollup_marks (granularity, start_time, model, version);
CREATE INDEX rollup_marks_new ON rollup_marks (start_time, model, version) WHERE granularity = 1 AND NOT set_aside;

-- Which buckets got feedback, and nothing else, since they were counted: only that is counted anew. As above.
CREATE TABLE feedback_marks (
    start_time timestamptz NOT NULL,
    model      text        NOT NULL,
    version    text        NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
CREATE INDEX feedback_marks_span ON feedback_marks (start_time, model, version);

-- Feedback whose event was not to be seen when it was stored. The two may have been stored at once, so it is looked for
-- once more, from a snapshot that sees the feedback: an event that comes after that brings a mark of its own.
CREATE TABLE early_feedback (
    inference_id uuid NOT NULL
);

-- What was dropped by its retention. Where a day is made again, for events that come late or since the retention was
-- made longer, what was counted of it before still stands.
CREATE TABLE dropped_days (
    table_name text NOT NULL,
    day        date NOT NULL,
    CONSTRAINT dropped_days_pkey PRIMARY KEY (table_name, day)
);

-- Counts of a version over 5 minutes; partitions, one a day (UTC), are made by the service. Sums are numeric, so that
-- their order does not matter: recounts, and sums of sums, are equal to the last digit.
CREATE TABLE rollups_five_minutes (
    model             text        NOT NULL,
    version           text        NOT NULL,
    start_time        timestamptz NOT NULL,
    inference_count   bigint      NOT NULL,
    error_count       bigint      NOT NULL,
    row_count         bigint      NOT NULL,
    error_codes       text[]      NOT NULL,
    error_counts      bigint[]    NOT NULL,
    latency_bins      integer[]   NOT NULL,  -- ascending; see rollups/latency.py
    latency_counts    bigint[]    NOT NULL,
    latency_sum_ms    numeric     NOT NULL,
    latency_max_ms    double precision,
    confidence_count  bigint      NOT NULL,
    confidence_sum    numeric     NOT NULL,
    feedback_count    bigint      NOT NULL,
    judged_count      bigint      NOT NULL,
    correct_count     bigint      NOT NULL,
    feedback_lag_s    numeric     NOT NULL,  -- summed over the rows with feedback
    CONSTRAINT rollups_five_minutes_pkey PRIMARY KEY (model, start_time, version)
) PARTITION BY RANGE (start_time);
CREATE INDEX rollups_five_minutes_time ON rollups_five_minutes (start_time);

CREATE TABLE rollups_hours (
    LIKE rollups_five_minutes,
    CONSTRAINT rollups_hours_pkey PRIMARY KEY (model, start_time, version)
);
CREATE INDEX rollups_hours_time ON rollups_hours (start_time);

CREATE TABLE rollups_days (
    LIKE rollups_five_minutes,
    CONSTRAINT rollups_days_pkey PRIMARY KEY (model, start_time, version)
);
CREATE INDEX rollups_days_time ON rollups_days (start_time);

-- Events that were there before the marks.
INSERT INTO rollup_marks
SELECT DISTINCT 1, date_bin('5 minutes', event_time, '1970-01-01 00:00:00+00'), model, version FROM inferences;
