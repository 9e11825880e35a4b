-- Looks at the quality of live data. The document is the contract's QualityCheck with all its findings; the columns are
-- what lists, alerts and gauges read.
CREATE TABLE quality_checks (
    check_id    uuid        NOT NULL,  -- UUIDv7: the order of lists
    model       text        NOT NULL,
    version     text        NOT NULL,
    status      smallint    NOT NULL,  -- QualityStatus
    create_time timestamptz NOT NULL,
    overview    bytea       NOT NULL,  -- serialised QualityCheck without findings
    document    bytea       NOT NULL,  -- and with them
    CONSTRAINT quality_checks_pkey PRIMARY KEY (check_id)
);
CREATE INDEX quality_checks_version ON quality_checks (model, version, check_id);
CREATE INDEX quality_checks_by_time ON quality_checks (create_time);

-- When each version is to be looked at next by schedule. Whoever moves the time on keeps the check, in one transaction.
CREATE TABLE quality_schedule (
    model    text        NOT NULL,
    version  text        NOT NULL,
    due_time timestamptz NOT NULL,
    CONSTRAINT quality_schedule_pkey PRIMARY KEY (model, version)
);
CREATE INDEX quality_schedule_by_time ON quality_schedule (due_time);
