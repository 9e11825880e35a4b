-- What may be changed of models and versions, aliases, evaluations, deletion that can be undone, and the audit log.

-- A version's place in semantic order, as text that sorts bytewise as `services.common.versions` sorts; NULL where it
-- does not parse. A pre-release's numbers are below its words, and all of them below the release.
CREATE FUNCTION semantic_order(version text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT lpad(m[1], 18, '0') || lpad(coalesce(m[2], '0'), 18, '0') || lpad(coalesce(m[3], '0'), 18, '0')
        || CASE WHEN m[4] IS NULL THEN '2' ELSE (
               SELECT string_agg(
                   CASE WHEN part ~ '^[0-9]+$'
                        THEN '0' || lpad(length(ltrim(part, '0'))::text, 3, '0') || ltrim(part, '0') || '!'
                        ELSE '1' || part || '!' END,
                   '' ORDER BY place)
               FROM unnest(string_to_array(m[4], '.')) WITH ORDINALITY AS parts (part, place)
           ) END
    FROM regexp_match(version, '^v?([0-9]{1,18})(?:\.([0-9]{1,18}))?(?:\.([0-9]{1,18}))?'
        '(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?$') AS m
$$;

ALTER TABLE models
    ADD COLUMN tags             text[]      NOT NULL DEFAULT '{}',
    ADD COLUMN labels           jsonb       NOT NULL DEFAULT '{}',
    ADD COLUMN training_config  jsonb       NOT NULL DEFAULT '{}',
    ADD COLUMN serving_settings jsonb       NOT NULL DEFAULT '{}',
    ADD COLUMN capture_policy   jsonb       NOT NULL DEFAULT '{}',
    ADD COLUMN created_by       text        NOT NULL DEFAULT '',
    -- Counts the changes of the model itself; its etag.
    ADD COLUMN edit_count       bigint      NOT NULL DEFAULT 0,
    -- What `latest` means: kept by whoever changes what is READY, so that a list reads no versions.
    ADD COLUMN latest_version_id bigint     REFERENCES versions,
    ADD COLUMN delete_time      timestamptz,
    ADD COLUMN purge_time       timestamptz,
    -- Set once its files are gone for good. The row stays for the logs; the name is free.
    ADD COLUMN purged           boolean     NOT NULL DEFAULT false,
    -- The words of name, description and tags, for search.
    ADD COLUMN search           tsvector    NOT NULL DEFAULT '';
ALTER TABLE models DROP CONSTRAINT models_name_key;
CREATE UNIQUE INDEX models_name_key ON models (name) WHERE NOT purged;
CREATE INDEX models_by_search ON models USING gin (search);
CREATE INDEX models_by_labels ON models USING gin (labels jsonb_path_ops);
CREATE INDEX models_deleted ON models (purge_time) WHERE delete_time IS NOT NULL AND NOT purged;

ALTER TABLE versions
    ADD COLUMN description text        NOT NULL DEFAULT '',
    ADD COLUMN labels      jsonb       NOT NULL DEFAULT '{}',
    ADD COLUMN ollama      jsonb,
    ADD COLUMN delete_time timestamptz,
    ADD COLUMN deleted_by  text        NOT NULL DEFAULT '',
    ADD COLUMN purge_time  timestamptz,
    ADD COLUMN purged      boolean     NOT NULL DEFAULT false,
    ADD COLUMN semantic_order text COLLATE "C" GENERATED ALWAYS AS (registry.semantic_order(version)) STORED,
    -- The words of the model's name, version, description, tags, task and source, for search.
    ADD COLUMN search      tsvector    NOT NULL DEFAULT '',
    ADD CONSTRAINT versions_live_kept_check CHECK (stage <> 'PRODUCTION' OR delete_time IS NULL);
-- A name that was ever READY means the same bytes for good; that of a FAILED version is free once it is deleted.
ALTER TABLE versions DROP CONSTRAINT versions_version_key;
CREATE UNIQUE INDEX versions_version_key ON versions (model_id, version)
    WHERE NOT (state = 'FAILED' AND delete_time IS NOT NULL);
CREATE INDEX versions_by_search ON versions USING gin (search);
CREATE INDEX versions_by_labels ON versions USING gin (labels jsonb_path_ops);
CREATE INDEX versions_by_model ON versions (model_id, version_id);
CREATE INDEX versions_by_stage_of_model ON versions (model_id, stage, version_id);
CREATE INDEX versions_by_stage ON versions (stage, version_id);
CREATE INDEX versions_by_state ON versions (state, version_id);
CREATE INDEX versions_by_framework ON versions (framework, version_id);
CREATE INDEX versions_by_order ON versions (model_id, semantic_order DESC, deployment_number DESC)
    WHERE state = 'READY' AND delete_time IS NULL;
CREATE INDEX versions_deleted ON versions (purge_time) WHERE delete_time IS NOT NULL AND NOT purged;

-- What `latest` means: the highest semantic version that is READY; where one of those does not parse, the newest.
CREATE FUNCTION latest_of(wanted_model_id bigint) RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN EXISTS (
        SELECT 1 FROM registry.versions
        WHERE model_id = wanted_model_id AND state = 'READY' AND delete_time IS NULL AND semantic_order IS NULL
    ) THEN (
        SELECT version_id FROM registry.versions
        WHERE model_id = wanted_model_id AND state = 'READY' AND delete_time IS NULL
        ORDER BY deployment_number DESC LIMIT 1
    ) ELSE (
        SELECT version_id FROM registry.versions
        WHERE model_id = wanted_model_id AND state = 'READY' AND delete_time IS NULL
        ORDER BY semantic_order DESC, deployment_number DESC LIMIT 1
    ) END
$$;

CREATE TABLE aliases (
    model_id    bigint      NOT NULL REFERENCES models,
    alias       text        COLLATE "C" NOT NULL,
    version_id  bigint      NOT NULL REFERENCES versions,
    set_by      text        NOT NULL,
    update_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT aliases_key PRIMARY KEY (model_id, alias)
);
CREATE INDEX aliases_by_version ON aliases (version_id);

CREATE TABLE evaluations (
    evaluation_id bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    version_id    bigint      NOT NULL REFERENCES versions,
    model_id      bigint      NOT NULL REFERENCES models,
    metrics       jsonb       NOT NULL,
    dataset       text        NOT NULL,
    note          text        NOT NULL,
    passed        boolean     NOT NULL,
    shortfalls    text[]      NOT NULL,
    evaluated_by  text        NOT NULL,
    evaluate_time timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX evaluations_by_version ON evaluations (version_id, evaluation_id DESC);
CREATE INDEX evaluations_by_model ON evaluations (model_id, evaluation_id DESC);
-- The first result of a RecordEvaluation.
ALTER TABLE requests ADD COLUMN evaluation_id bigint REFERENCES evaluations;
CREATE TRIGGER evaluations_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON evaluations
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Who changed what, and when. Names rather than keys: it outlives what it tells of.
CREATE TABLE audit (
    audit_id bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time     timestamptz NOT NULL DEFAULT clock_timestamp(),
    caller   text        NOT NULL,
    role     text        NOT NULL,
    action   text        NOT NULL,
    model    text        COLLATE "C" NOT NULL,
    version  text        COLLATE "C" NOT NULL,
    before   jsonb,
    after    jsonb,
    note     text        NOT NULL
);
CREATE INDEX audit_by_model ON audit (model, audit_id DESC);
CREATE INDEX audit_by_caller ON audit (caller, audit_id DESC);
CREATE INDEX audit_by_time ON audit (time);
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- A name for this life of the database: one that was restored from a backup gets another, and watchers begin anew.
ALTER TABLE revisions ADD COLUMN epoch uuid NOT NULL DEFAULT gen_random_uuid();

-- The reference of an OLLAMA version is as immutable as files are.
CREATE TRIGGER versions_reference_immutable_once_ready BEFORE UPDATE ON versions FOR EACH ROW
    WHEN (OLD.state = 'READY' AND NEW.ollama IS DISTINCT FROM OLD.ollama)
    EXECUTE FUNCTION refuse_change_of_ready_version();

-- Words are runs of letters and digits, in lowercase, at most 255 characters of each.
CREATE FUNCTION word_list(text) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT array(SELECT DISTINCT left(word, 255) FROM regexp_split_to_table(lower($1), '[^[:alnum:]]+') AS word
                 WHERE word <> '')
$$;
CREATE FUNCTION words(text) RETURNS tsvector LANGUAGE sql IMMUTABLE AS $$
    SELECT array_to_tsvector(registry.word_list($1))
$$;
-- What finds the texts in which every word of this one begins a word.
CREATE FUNCTION word_beginnings(text) RETURNS tsquery LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(string_agg('''' || word || ''':*', ' & '), '')::tsquery FROM unnest(registry.word_list($1)) AS word
$$;

-- What was there before this migration is found as well.
UPDATE models SET search = registry.words(name || ' ' || description);
UPDATE versions v SET search = registry.words(concat_ws(' ', m.name, v.version, v.metadata ->> 'tags',
    v.metadata ->> 'task_type', v.source ->> 'origin', v.source ->> 'reference', v.source_version))
FROM models m WHERE m.model_id = v.model_id;
UPDATE models m SET latest_version_id = registry.latest_of(m.model_id);
