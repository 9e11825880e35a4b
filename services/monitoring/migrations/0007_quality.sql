-- Looks at the quality of live data. The document is the contract's QualityCheck with all its findings; the columns are
-- what lists and lineage find them by.
CREATE TABLE quality_checks (
    check_id    uuid        NOT NULL,  -- UUIDv7: the order of lists
    model       text        NOT NULL,
    version     text        NOT NULL,
    profile_id  uuid,                  -- null: the version has no reference
    status      smallint    NOT NULL,  -- QualityStatus
    trigger     smallint    NOT NULL,  -- Trigger
    create_time timestamptz NOT NULL,
    overview    bytea       NOT NULL,  -- serialised QualityCheck without findings
    document    bytea       NOT NULL,  -- and with them, by zlib
    CONSTRAINT quality_checks_pkey PRIMARY KEY (check_id)
);
CREATE INDEX quality_checks_version ON quality_checks (model, version, check_id);
CREATE INDEX quality_checks_by_time ON quality_checks (create_time);

-- The last check of each version by schedule, which is what rules judge by, and when it is to be looked at next. Whoever
-- moves the time on keeps the check, in one transaction. One that is due waits, for a while, for buckets that are over to
-- be counted; wait_time says since when. Where no check was made yet check_id is all zeros.
CREATE TABLE quality_schedule (
    model     text        NOT NULL,
    version   text        NOT NULL,
    due_time  timestamptz NOT NULL,
    check_id  uuid        NOT NULL,
    wait_time timestamptz,
    CONSTRAINT quality_schedule_pkey PRIMARY KEY (model, version)
);
CREATE INDEX quality_schedule_by_time ON quality_schedule (due_time);
