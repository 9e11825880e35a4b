-- Reference profiles are frozen: rows are only ever added.
CREATE TABLE profiles (
    profile_id      uuid             NOT NULL,
    model           text             NOT NULL,
    version         text             NOT NULL,  -- that it was made for
    profile_number  integer          NOT NULL,
    source          jsonb            NOT NULL,  -- see profiles/store/profiles.py
    row_count       bigint           NOT NULL,
    accuracy        double precision,
    judged_count    bigint           NOT NULL,
    duplicate_share double precision NOT NULL,
    feature_count   integer          NOT NULL,
    create_time     timestamptz      NOT NULL,
    created_by      text             NOT NULL,
    note            text             NOT NULL,
    CONSTRAINT profiles_pkey PRIMARY KEY (profile_id),
    CONSTRAINT profiles_number UNIQUE (model, profile_number)
);

CREATE TABLE profile_features (
    profile_id     uuid               NOT NULL,
    position       integer            NOT NULL,  -- the order of the columns, by which nameless ones are matched
    name           text               NOT NULL,
    kind           smallint           NOT NULL,  -- FeatureKind
    is_prediction  boolean            NOT NULL,
    counts         bigint[]           NOT NULL,
    edges          double precision[] NOT NULL,
    categories     text[]             NOT NULL,
    moments        double precision[],           -- in the order of Moments
    dimensions     integer            NOT NULL,
    overdispersion double precision   NOT NULL,
    quality        double precision[] NOT NULL,  -- in the order of QUALITY_COUNTS
    sample         bytea,                        -- float32, little-endian, row by row
    sample_users   bytea,                        -- uint32, little-endian: of each row of the sample its user; 0: none
    CONSTRAINT profile_features_pkey PRIMARY KEY (profile_id, position),
    CONSTRAINT profile_features_profile FOREIGN KEY (profile_id) REFERENCES profiles
);

-- What each version is compared with now.
CREATE TABLE profile_attachments (
    model         text        NOT NULL,
    version       text        NOT NULL,
    profile_id    uuid        NOT NULL,
    attach_time   timestamptz NOT NULL,
    attached_by   text        NOT NULL,
    columns       text[]      NOT NULL DEFAULT '{}',  -- what those of the version's only input were declared to be called
    recount_day   date,                          -- the next day, going back, whose buckets are to be counted anew
    recount_first_day date,                      -- the last one to be; null: the first day with events
    CONSTRAINT profile_attachments_pkey PRIMARY KEY (model, version),
    CONSTRAINT profile_attachments_profile FOREIGN KEY (profile_id) REFERENCES profiles
);
CREATE INDEX profile_attachments_recounts ON profile_attachments (recount_day) WHERE recount_day IS NOT NULL;

-- The first results of requests with an id, kept for a week.
CREATE TABLE profile_requests (
    caller      text        NOT NULL,
    request_id  text        NOT NULL,
    body_sha256 bytea       NOT NULL,
    profile_id  uuid        NOT NULL,
    create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT profile_requests_key PRIMARY KEY (caller, request_id),
    CONSTRAINT profile_requests_profile FOREIGN KEY (profile_id) REFERENCES profiles
);
CREATE INDEX profile_requests_by_time ON profile_requests (create_time);

-- Buckets of 5 minutes that are to be counted anew, appended by whoever changed them. Without a key on purpose: one
-- more of the same costs little, and a mark that comes while its bucket is counted must outlive that count.
CREATE TABLE profile_marks (
    model      text        NOT NULL,
    version    text        NOT NULL,
    start_time timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
CREATE INDEX profile_marks_bucket ON profile_marks (start_time, model, version);

-- Live rows of a bucket counted in the bins of a profile; partitions, one a day (UTC), are made by the service.
-- The blobs are compressed arrays in the order of the profile's features: see profiles/packing.py.
CREATE TABLE live_profiles (
    model           text        NOT NULL,
    version         text        NOT NULL,
    profile_id      uuid        NOT NULL,
    start_time      timestamptz NOT NULL,
    count_time      timestamptz NOT NULL,        -- when it was last counted
    share           double precision NOT NULL,   -- of the bucket's events that was read, chosen uniformly
    row_count       bigint      NOT NULL,        -- as all that follows of what was read
    duplicate_count bigint      NOT NULL,
    counts          bytea       NOT NULL,
    groups          bytea       NOT NULL,
    extremes        bytea       NOT NULL,
    samples         bytea       NOT NULL,
    unknown         jsonb       NOT NULL,        -- rows by the name of a feature that the profile does not have
    CONSTRAINT live_profiles_pkey PRIMARY KEY (model, version, profile_id, start_time)
) PARTITION BY RANGE (start_time);
