-- Checks for drift. The document is the contract's DriftCheck with all its results; the columns are what lists and
-- lineage find them by.
CREATE TABLE drift_checks (
    check_id       uuid             NOT NULL,  -- UUIDv7: the order of lists
    model          text             NOT NULL,
    version        text             NOT NULL,
    profile_id     uuid             NOT NULL,
    status         smallint         NOT NULL,  -- DriftStatus
    trigger        smallint         NOT NULL,  -- Trigger
    create_time    timestamptz      NOT NULL,
    overview       bytea            NOT NULL,  -- serialised DriftCheck without results
    document       bytea            NOT NULL,  -- and with them, by zlib
    CONSTRAINT drift_checks_pkey PRIMARY KEY (check_id)
);
CREATE INDEX drift_checks_version ON drift_checks (model, version, check_id);
CREATE INDEX drift_checks_by_time ON drift_checks (create_time);

-- The last check of each version by schedule, which is what rules judge by, and when it is to be looked at next. Whoever
-- moves the time on keeps the check, in one transaction. One that is due waits, for a while, for buckets that are over to
-- be counted; wait_time says since when. Where no check was made yet check_id is all zeros.
CREATE TABLE drift_schedule (
    model     text        NOT NULL,
    version   text        NOT NULL,
    due_time  timestamptz NOT NULL,
    check_id  uuid        NOT NULL,
    wait_time timestamptz,
    CONSTRAINT drift_schedule_pkey PRIMARY KEY (model, version)
);
CREATE INDEX drift_schedule_by_time ON drift_schedule (due_time);
