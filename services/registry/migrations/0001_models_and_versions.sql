-- Models, their versions and files, the log of stage moves, and the revisions that watchers follow.
-- Whoever changes a version locks its model's row first and the revision's row last.

CREATE TABLE models (
    model_id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name               text        COLLATE "C" NOT NULL CONSTRAINT models_name_key UNIQUE,
    description        text        NOT NULL,
    -- The last deployment number given; under the row's lock it counts without gaps.
    version_count      bigint      NOT NULL DEFAULT 0,
    -- The promotion that is in force. It names the one before it, so rolling back is a walk along a list.
    live_transition_id bigint,
    create_time        timestamptz NOT NULL DEFAULT clock_timestamp(),
    update_time        timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE versions (
    version_id               bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_id                 bigint      NOT NULL REFERENCES models,
    version                  text        COLLATE "C" NOT NULL,
    deployment_number        bigint      NOT NULL,
    framework                text        NOT NULL,
    state                    text        NOT NULL,
    failure_reason           text        NOT NULL DEFAULT '',
    failure_message          text        NOT NULL DEFAULT '',
    stage                    text        NOT NULL,
    -- What the registration asked for, once the version is READY.
    requested_stage          text        NOT NULL,
    requested_approved_by    text        NOT NULL,
    requested_note           text        NOT NULL,
    declared_signature       jsonb,
    signature                jsonb,
    validation               jsonb,
    source_version           text        NOT NULL,
    source                   jsonb       NOT NULL,
    training_run_id          text        NOT NULL,
    parent_deployment_number bigint      NOT NULL,
    metadata                 jsonb       NOT NULL,
    serving_settings         jsonb       NOT NULL,
    capture_policy           jsonb       NOT NULL,
    create_time              timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_by               text        NOT NULL,
    ready_time               timestamptz,
    promoted_time            timestamptz NOT NULL DEFAULT clock_timestamp(),
    promoted_by              text        NOT NULL,
    revision                 bigint      NOT NULL DEFAULT 0,
    CONSTRAINT versions_version_key UNIQUE (model_id, version),
    CONSTRAINT versions_deployment_number_key UNIQUE (model_id, deployment_number),
    CONSTRAINT versions_state_check CHECK (state IN ('VALIDATING', 'READY', 'FAILED')),
    CONSTRAINT versions_stage_check
        CHECK (stage IN ('DEVELOPMENT', 'CANDIDATE', 'STAGING', 'PRODUCTION', 'ARCHIVED')),
    CONSTRAINT versions_live_ready_check CHECK (stage <> 'PRODUCTION' OR state = 'READY')
);
CREATE UNIQUE INDEX versions_one_production ON versions (model_id) WHERE stage = 'PRODUCTION';

CREATE TABLE files (
    version_id bigint NOT NULL REFERENCES versions,
    path       text   COLLATE "C" NOT NULL,
    sha256     text   NOT NULL,
    size_bytes bigint NOT NULL CONSTRAINT files_size_check CHECK (size_bytes > 0),
    PRIMARY KEY (version_id, path)
);
CREATE INDEX files_sha256 ON files (sha256);

CREATE TABLE transitions (
    transition_id               bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model_id                    bigint      NOT NULL REFERENCES models,
    version_id                  bigint      NOT NULL REFERENCES versions,
    from_stage                  text,
    to_stage                    text        NOT NULL,
    kind                        text        NOT NULL,
    promoted_by                 text        NOT NULL,
    approved_by                 text        NOT NULL,
    note                        text        NOT NULL,
    promoted_time               timestamptz NOT NULL DEFAULT clock_timestamp(),
    previous_live_transition_id bigint      REFERENCES transitions
);
CREATE INDEX transitions_by_model ON transitions (model_id, transition_id DESC);
CREATE INDEX transitions_into_production ON transitions (model_id, transition_id DESC) WHERE to_stage = 'PRODUCTION';
ALTER TABLE models ADD CONSTRAINT models_live_transition_fkey
    FOREIGN KEY (live_transition_id) REFERENCES transitions;

-- What waits for the validator or is with it: a row for each version in VALIDATING. The attempt is the fencing
-- token: who lost the lease finds another number here and can write nothing.
CREATE TABLE validations (
    validation_id     bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version_id        bigint      NOT NULL REFERENCES versions CONSTRAINT validations_version_key UNIQUE,
    attempt           bigint      NOT NULL DEFAULT 0,
    crash_count       integer     NOT NULL DEFAULT 0,
    lease_expire_time timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX validations_by_lease ON validations (lease_expire_time);

-- One row. Its lock makes the order of revisions the order of commits, which no sequence can promise.
CREATE TABLE revisions (
    only_row           boolean PRIMARY KEY DEFAULT true CONSTRAINT revisions_only_row CHECK (only_row),
    revision           bigint  NOT NULL,
    -- Changes up to here are forgotten.
    compacted_revision bigint  NOT NULL
);
INSERT INTO revisions (revision, compacted_revision) VALUES (0, 0);

CREATE TABLE changes (
    revision   bigint NOT NULL,
    version_id bigint NOT NULL REFERENCES versions,
    PRIMARY KEY (revision, version_id)
);

-- The first result of each request_id, kept for a while.
CREATE TABLE requests (
    caller      text        NOT NULL,
    rpc         text        NOT NULL,
    request_id  text        NOT NULL,
    body_sha256 text        NOT NULL,
    model_id    bigint      NOT NULL REFERENCES models,
    version_id  bigint      REFERENCES versions,
    create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT requests_key PRIMARY KEY (caller, rpc, request_id)
);
CREATE INDEX requests_by_time ON requests (create_time);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER transitions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON transitions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER files_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON files
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE FUNCTION refuse_change_of_ready_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'version % is READY: its signature and origin are immutable', OLD.version_id
        USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER versions_immutable_once_ready BEFORE UPDATE ON versions FOR EACH ROW
    WHEN (OLD.state = 'READY' AND (
        (NEW.state, NEW.model_id, NEW.version, NEW.deployment_number, NEW.framework, NEW.signature, NEW.validation,
         NEW.source_version, NEW.source, NEW.training_run_id, NEW.parent_deployment_number, NEW.metadata)
        IS DISTINCT FROM
        (OLD.state, OLD.model_id, OLD.version, OLD.deployment_number, OLD.framework, OLD.signature, OLD.validation,
         OLD.source_version, OLD.source, OLD.training_run_id, OLD.parent_deployment_number, OLD.metadata)))
    EXECUTE FUNCTION refuse_change_of_ready_version();
