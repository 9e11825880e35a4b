-- Which validators run, and which frameworks they open.

CREATE TABLE validators (
    name       text        CONSTRAINT validators_key PRIMARY KEY,
    frameworks text[]      NOT NULL,
    seen_time  timestamptz NOT NULL DEFAULT clock_timestamp()
);
