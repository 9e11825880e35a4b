-- Scripts: a name, and the number that its next version gets. Numbers are never given twice, also not those of versions
-- that are deleted.
CREATE TABLE trainer.scripts (
    name         text    NOT NULL,
    next_version integer NOT NULL DEFAULT 1,
    CONSTRAINT scripts_pkey PRIMARY KEY (name)
);

-- Versions of scripts; the bytes of each are the blob `script` of its id.
CREATE TABLE trainer.script_versions (
    version_id    uuid        NOT NULL,
    name          text        NOT NULL,
    version       integer     NOT NULL,
    entry         text        NOT NULL,                                    -- the file with train(context)
    packed        boolean     NOT NULL,                                    -- a zip of files; else one Python file
    sha256        text        NOT NULL,
    size_bytes    bigint      NOT NULL,
    files         jsonb       NOT NULL,                                    -- sizes in bytes by path
    description   text        NOT NULL DEFAULT '',
    created_by    text        NOT NULL,
    request_id    text        NOT NULL DEFAULT '',
    body_sha256   text        NOT NULL DEFAULT '',                         -- of the request that came with request_id
    create_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT script_versions_pkey PRIMARY KEY (version_id),
    CONSTRAINT script_versions_number UNIQUE (name, version),
    CONSTRAINT script_versions_name FOREIGN KEY (name) REFERENCES trainer.scripts
);
CREATE UNIQUE INDEX script_versions_request ON trainer.script_versions (created_by, request_id) WHERE request_id <> '';

-- NAME/VERSION; '': the run is trained with none of them.
ALTER TABLE trainer.training_runs ADD COLUMN script text NOT NULL DEFAULT '';
CREATE INDEX training_runs_scripts ON trainer.training_runs (script) WHERE script <> '' AND end_time IS NULL;
