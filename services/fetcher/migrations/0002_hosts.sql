-- What each host has been asked for lately, by all replicas together: token buckets, as the time until which what was
-- taken of one is made good. A row whose time has passed says nothing, and is deleted now and then.
CREATE TABLE fetcher.host_budgets (
    host        text        NOT NULL,
    unit        text        NOT NULL,                                      -- requests or bytes
    paid_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT host_budgets_pkey PRIMARY KEY (host, unit),
    CONSTRAINT host_budgets_unit CHECK (unit IN ('requests', 'bytes'))
);
CREATE INDEX host_budgets_paid ON fetcher.host_budgets (paid_time);
