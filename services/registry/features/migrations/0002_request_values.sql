-- What who reads may bring along, for features that are computed on read.
ALTER TABLE features.views ADD COLUMN request_values jsonb NOT NULL DEFAULT '[]';         -- [{name, type, description}]
