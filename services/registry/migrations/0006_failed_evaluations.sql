-- A version that does not load, or answers with errors, has an evaluation that says so: it closes STAGING.

ALTER TABLE evaluations ADD COLUMN failure text NOT NULL DEFAULT '';
