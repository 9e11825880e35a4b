-- The trace that a prediction is part of; empty where it was not traced. A constant default rewrites no row, and what
-- an older service writes without the column gets it.
ALTER TABLE inferences ADD COLUMN trace_id text NOT NULL DEFAULT '';
