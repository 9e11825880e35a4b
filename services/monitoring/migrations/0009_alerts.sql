-- Rules, at most one of a name for all models, for a model and for a version of it; the most specific holds.
CREATE TABLE alert_rules (
    rule_id         uuid             NOT NULL,
    name            text             NOT NULL,
    model           text             NOT NULL,  -- empty: every model
    version         text             NOT NULL,  -- empty: every version
    enabled         boolean          NOT NULL,
    type            text             NOT NULL,
    severity        text             NOT NULL,
    metric          text             NOT NULL,
    operator        text             NOT NULL,
    threshold       double precision NOT NULL,
    window_length   interval         NOT NULL,
    hold            interval         NOT NULL,  -- the contract's "for", which SQL has taken
    drift_type      text,
    feature         text             NOT NULL,
    error_code      text             NOT NULL,
    min_count       bigint           NOT NULL,
    missing_data    text             NOT NULL,
    repeat_interval interval         NOT NULL,
    description     text             NOT NULL,
    revision        bigint           NOT NULL,
    create_time     timestamptz      NOT NULL,
    update_time     timestamptz      NOT NULL,
    updated_by      text             NOT NULL,
    CONSTRAINT alert_rules_pkey PRIMARY KEY (rule_id),
    CONSTRAINT alert_rules_name_key UNIQUE (name, model, version),
    CONSTRAINT alert_rules_version_check CHECK (version = '' OR model <> '')
);

-- Whom a rule tells, in the order given. A channel that a rule names is not deleted.
CREATE TABLE alert_rule_channels (
    rule_id  uuid    NOT NULL,
    position integer NOT NULL,
    channel  text    NOT NULL,
    CONSTRAINT alert_rule_channels_pkey PRIMARY KEY (rule_id, position),
    CONSTRAINT alert_rule_channels_rule_fkey FOREIGN KEY (rule_id) REFERENCES alert_rules ON DELETE CASCADE,
    CONSTRAINT alert_rule_channels_channel_fkey FOREIGN KEY (channel) REFERENCES channels
);
CREATE INDEX alert_rule_channels_channel ON alert_rule_channels (channel);

-- What people did to rules: each as it was before and after; JSON, see store/changes.py.
CREATE TABLE alert_rule_changes (
    change_number bigint      GENERATED ALWAYS AS IDENTITY,
    change_time   timestamptz NOT NULL,
    rule_id       uuid        NOT NULL,
    model         text        NOT NULL,  -- for whom it was after, or before it was deleted
    rule_before   jsonb,                 -- null: it was made
    rule_after    jsonb,                 -- null: it was deleted
    changed_by    text        NOT NULL,
    CONSTRAINT alert_rule_changes_pkey PRIMARY KEY (change_number)
);
CREATE INDEX alert_rule_changes_rule ON alert_rule_changes (rule_id, change_number);
CREATE INDEX alert_rule_changes_time ON alert_rule_changes (change_time);

-- An alert outlives its rule, so it names the rule without a key, and keeps what the rule said.
CREATE TABLE alerts (
    alert_id         uuid             NOT NULL,  -- a UUIDv7 of when it began: the order of every list
    rule_id          uuid             NOT NULL,
    rule_name        text             NOT NULL,
    rule_revision    bigint           NOT NULL,
    model            text             NOT NULL,
    version          text             NOT NULL,
    type             text             NOT NULL,
    severity         text             NOT NULL,
    state            text             NOT NULL,
    condition        text             NOT NULL,
    value            double precision,           -- that it fired on; while it is pending, as last_value
    last_value       double precision,           -- when it was last judged
    threshold        double precision NOT NULL,
    message          text             NOT NULL,
    begin_time       timestamptz      NOT NULL,
    judge_time       timestamptz      NOT NULL,
    change_time      timestamptz      NOT NULL,
    held             interval         NOT NULL,
    fire_time        timestamptz,
    resolve_time     timestamptz,
    acknowledge_time timestamptz,
    acknowledged_by  text,
    acknowledge_note text,
    flapping         boolean          NOT NULL,
    check_id         uuid,                       -- as value
    last_check_id    uuid,                       -- as last_value
    told             jsonb            NOT NULL DEFAULT '{}',  -- by channel that heard of it, when it last did
    CONSTRAINT alerts_pkey PRIMARY KEY (alert_id),
    CONSTRAINT alerts_fired_check CHECK (state = 'PENDING' OR fire_time IS NOT NULL),
    CONSTRAINT alerts_resolved_check CHECK ((state = 'RESOLVED') = (resolve_time IS NOT NULL))
);

-- However many replicas judge at once: one open alert of a rule and a version.
CREATE UNIQUE INDEX alerts_one_open ON alerts (rule_id, model, version) WHERE state <> 'RESOLVED';
-- What came and went of late, for flapping.
CREATE INDEX alerts_recent ON alerts (rule_id, model, version, resolve_time);
CREATE INDEX alerts_model ON alerts (model, alert_id);
CREATE INDEX alerts_check ON alerts (check_id) WHERE check_id IS NOT NULL;
CREATE INDEX alerts_resolved ON alerts (resolve_time) WHERE state = 'RESOLVED';

-- The history of an alert: only ever appended, and gone with it.
CREATE TABLE alert_events (
    alert_id     uuid             NOT NULL,
    event_number bigint           GENERATED ALWAYS AS IDENTITY,
    event_time   timestamptz      NOT NULL,
    state        text             NOT NULL,
    value        double precision,
    actor        text             NOT NULL,  -- empty: the service itself
    message      text             NOT NULL,
    CONSTRAINT alert_events_pkey PRIMARY KEY (alert_id, event_number),
    CONSTRAINT alert_events_alert_fkey FOREIGN KEY (alert_id) REFERENCES alerts ON DELETE CASCADE
);

CREATE TABLE alert_silences (
    silence_id uuid        NOT NULL,
    model      text        NOT NULL,
    version    text        NOT NULL,
    rule_name  text        NOT NULL,
    severity   text,
    begin_time timestamptz NOT NULL,
    end_time   timestamptz NOT NULL,
    note       text        NOT NULL,
    created_by text        NOT NULL,
    without_version boolean NOT NULL,  -- of the model as a whole alone
    CONSTRAINT alert_silences_pkey PRIMARY KEY (silence_id)
);
CREATE INDEX alert_silences_end ON alert_silences (end_time);

-- What requests with an id made, so that the same one again makes nothing twice; kept for a week.
CREATE TABLE alert_requests (
    caller      text        NOT NULL,
    rpc         text        NOT NULL,
    request_id  text        NOT NULL,
    body_sha256 text        NOT NULL,
    made_id     uuid        NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT alert_requests_pkey PRIMARY KEY (caller, rpc, request_id)
);

-- Rules to begin with: on, so that what is wrong is listed and counted from the first day, and without channels, so
-- that nobody is woken who has not asked for it. None is about latency: what is slow differs from model to model.
INSERT INTO alert_rules (
    rule_id, name, model, version, enabled, type, severity, metric, operator, threshold, window_length, hold,
    drift_type, feature, error_code, min_count, missing_data, repeat_interval, description, revision, create_time,
    update_time, updated_by
)
VALUES
    ('01900000-0000-7000-8000-000000000001', 'errors', '', '', true, 'ERROR_RATE', 'CRITICAL', 'server_error_rate',
     'GREATER', 0.1, '5 minutes', '2 minutes', NULL, '', '', 20, 'IGNORE', '4 hours',
     'More than a tenth of the predictions fail, their callers'' mistakes left out.', 1, now(), now(), 'penstock'),
    ('01900000-0000-7000-8000-000000000002', 'drift', '', '', true, 'DRIFT', 'WARNING', 'drifted_count',
     'GREATER_OR_EQUAL', 1, '24 hours', '0 seconds', NULL, '', '', 0, 'IGNORE', '24 hours',
     'Something has drifted from the reference profile.', 1, now(), now(), 'penstock'),
    ('01900000-0000-7000-8000-000000000003', 'data-quality', '', '', true, 'DATA_QUALITY', 'WARNING',
     'violation_count', 'GREATER_OR_EQUAL', 1, '24 hours', '0 seconds', NULL, '', '', 0, 'IGNORE', '24 hours',
     'The data is worse than the reference profile allows for.', 1, now(), now(), 'penstock');
