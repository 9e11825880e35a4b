-- Feature views. A version's values stand in two tables of its own, rows_<view_id> and latest_<view_id>: made with it,
-- typed as its features are, and dropped with it.
CREATE TABLE features.views (
    view_id         bigint      GENERATED ALWAYS AS IDENTITY,
    name            text        NOT NULL,
    version         integer     NOT NULL,
    entity          text        NOT NULL,
    features        jsonb       NOT NULL,                                  -- [{name, type, description}], in order
    ttl_ms          bigint      NOT NULL DEFAULT 0,
    owner           text        NOT NULL DEFAULT '',
    description     text        NOT NULL DEFAULT '',
    labels          jsonb       NOT NULL DEFAULT '{}',
    created_by      text        NOT NULL,
    create_time     timestamptz NOT NULL DEFAULT clock_timestamp(),
    update_time     timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_write_us   bigint      NOT NULL DEFAULT 0,                        -- create times of its rows grow with commits
    CONSTRAINT views_pkey PRIMARY KEY (view_id),
    CONSTRAINT views_name UNIQUE (name, version)
);
CREATE INDEX views_entity ON features.views (entity, name);

-- Names whose versions are counted on, also after all of them were deleted: a number never means another view.
CREATE TABLE features.view_names (
    name            text        NOT NULL,
    entity          text        NOT NULL,
    last_version    integer     NOT NULL DEFAULT 0,
    CONSTRAINT view_names_pkey PRIMARY KEY (name)
);
