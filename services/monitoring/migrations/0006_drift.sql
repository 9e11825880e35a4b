-- Checks for drift. The document is the contract's DriftCheck with all its results; the columns are what lists, alerts
-- and gauges read.
CREATE TABLE drift_checks (
    check_id       uuid             NOT NULL,  -- UUIDv7: the order of lists
    model          text             NOT NULL,
    version        text             NOT NULL,
    profile_id     uuid             NOT NULL,
    from_time      timestamptz      NOT NULL,
    to_time        timestamptz      NOT NULL,
    status         smallint         NOT NULL,  -- DriftStatus
    trigger        smallint         NOT NULL,  -- Trigger
    create_time    timestamptz      NOT NULL,
    overview       bytea            NOT NULL,  -- serialised DriftCheck without results
    document       bytea            NOT NULL,  -- and with them
    CONSTRAINT drift_checks_pkey PRIMARY KEY (check_id)
);
CREATE INDEX drift_checks_version ON drift_checks (model, version, check_id);
CREATE INDEX drift_checks_by_time ON drift_checks (create_time);

-- When each version is to be looked at next by schedule. Whoever moves the time on does the check.
CREATE TABLE drift_schedule (
    model    text        NOT NULL,
    version  text        NOT NULL,
    due_time timestamptz NOT NULL,
    CONSTRAINT drift_schedule_pkey PRIMARY KEY (model, version)
);
