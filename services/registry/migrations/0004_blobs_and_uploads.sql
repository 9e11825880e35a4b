-- Every blob has a row before its bytes can be seen, so that whatever a crash leaves behind is known; and the uploads
-- that bring a file in parts.

CREATE TABLE blobs (
    sha256       text        CONSTRAINT blobs_key PRIMARY KEY,
    size_bytes   bigint      NOT NULL,
    -- When somebody last meant to store it. It is not condemned for a while after that, for its rows may be on the way.
    touch_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Nothing names it since then; set by garbage collection, cleared by whoever stores it again.
    condemn_time timestamptz,
    -- Its bytes have been ordered away since then and no answer is known, so they may vanish at any moment. Set before
    -- the store is told; gone with the row when it answers. Outlives whoever set it.
    delete_time  timestamptz
);
CREATE INDEX blobs_condemned ON blobs (condemn_time) WHERE condemn_time IS NOT NULL;

INSERT INTO blobs (sha256, size_bytes) SELECT sha256, max(size_bytes) FROM files GROUP BY sha256;

CREATE TABLE uploads (
    upload_id       uuid        CONSTRAINT uploads_key PRIMARY KEY,
    sha256          text        NOT NULL,
    size_bytes      bigint      NOT NULL,
    part_size_bytes bigint      NOT NULL,
    finished        boolean     NOT NULL DEFAULT false,
    created_by      text        NOT NULL,
    create_time     timestamptz NOT NULL DEFAULT clock_timestamp(),
    expire_time     timestamptz NOT NULL,
    -- The same request again finds the upload that it made.
    request_id      text        NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX uploads_request_key ON uploads (created_by, request_id) WHERE request_id <> '';
CREATE INDEX uploads_by_expiry ON uploads (expire_time);

CREATE TABLE upload_parts (
    upload_id   uuid    NOT NULL REFERENCES uploads ON DELETE CASCADE,
    part_number integer NOT NULL,
    sha256      text    NOT NULL REFERENCES blobs,
    CONSTRAINT upload_parts_key PRIMARY KEY (upload_id, part_number)
);
CREATE INDEX upload_parts_by_blob ON upload_parts (sha256);
