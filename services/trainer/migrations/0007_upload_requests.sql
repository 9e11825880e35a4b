-- Requests that were answered with a version that was there already; those that made one stand with it. They go with
-- the version, and a week after they came.
CREATE TABLE trainer.dataset_requests (
    created_by  text        NOT NULL,
    request_id  text        NOT NULL,
    body_sha256 text        NOT NULL,
    version_id  uuid        NOT NULL,
    create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT dataset_requests_pkey PRIMARY KEY (created_by, request_id),
    CONSTRAINT dataset_requests_version FOREIGN KEY (version_id) REFERENCES trainer.dataset_versions ON DELETE CASCADE
);
CREATE INDEX dataset_requests_versions ON trainer.dataset_requests (version_id, create_time);

CREATE TABLE trainer.script_requests (
    created_by  text        NOT NULL,
    request_id  text        NOT NULL,
    body_sha256 text        NOT NULL,
    version_id  uuid        NOT NULL,
    create_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT script_requests_pkey PRIMARY KEY (created_by, request_id),
    CONSTRAINT script_requests_version FOREIGN KEY (version_id) REFERENCES trainer.script_versions ON DELETE CASCADE
);
CREATE INDEX script_requests_versions ON trainer.script_requests (version_id, create_time);
