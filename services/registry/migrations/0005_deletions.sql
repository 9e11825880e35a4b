-- Deleting a model takes its versions along, the live one too, and restoring it brings back exactly those.

ALTER TABLE versions
    -- It was there when its model was deleted; what had been deleted before stays deleted when the model is restored.
    ADD COLUMN deleted_with_model boolean NOT NULL DEFAULT false;
ALTER TABLE versions DROP CONSTRAINT versions_live_kept_check;
ALTER TABLE versions
    ADD CONSTRAINT versions_live_kept_check CHECK (stage <> 'PRODUCTION' OR delete_time IS NULL OR deleted_with_model);
-- Garbage collection looks for what names a blob.
CREATE INDEX uploads_by_sha256 ON uploads (sha256);
-- A version that was deleted before the validator was done with it never meant any bytes either.
DROP INDEX versions_version_key;
CREATE UNIQUE INDEX versions_version_key ON versions (model_id, version)
    WHERE NOT (state <> 'READY' AND delete_time IS NOT NULL);
