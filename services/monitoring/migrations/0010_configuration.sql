-- What each scope says of how models are watched: all ('', ''), a model (model, '') or a version of it. What one
-- leaves out, the one above says.
CREATE TABLE configurations (
    model   text  NOT NULL,
    version text  NOT NULL,
    own     jsonb NOT NULL,  -- by part and field; see services/monitoring/configuration/rules.py
    CONSTRAINT configurations_pkey PRIMARY KEY (model, version),
    CONSTRAINT configurations_scope CHECK (model <> '' OR version = '')
);

-- One row, updated in each transaction that changes anything: its order is the order of the commits, which a
-- sequence's is not. Replicas look at it to see whether what they have read still holds.
CREATE TABLE configuration_revision (
    only_row boolean NOT NULL DEFAULT true,
    revision bigint  NOT NULL,
    CONSTRAINT configuration_revision_pkey PRIMARY KEY (only_row),
    CONSTRAINT configuration_revision_only_row CHECK (only_row)
);
INSERT INTO configuration_revision (revision) VALUES (0);

-- Who changed what, and why; only ever appended.
CREATE TABLE configuration_changes (
    change_number bigint      GENERATED ALWAYS AS IDENTITY,
    change_time   timestamptz NOT NULL,
    model         text        NOT NULL,
    version       text        NOT NULL,
    own_before    jsonb       NOT NULL,
    own_after     jsonb       NOT NULL,
    changed_by    text        NOT NULL,
    note          text        NOT NULL,
    CONSTRAINT configuration_changes_pkey PRIMARY KEY (change_number)
);

CREATE INDEX configuration_changes_model ON configuration_changes (model, change_number);
