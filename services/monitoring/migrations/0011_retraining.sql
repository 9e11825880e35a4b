-- Wishes for a retraining, and what became of them.
CREATE TABLE retraining_requests (
    retraining_id     uuid        NOT NULL,  -- a UUIDv7: ids sort by time
    model             text        NOT NULL,
    version           text        NOT NULL,
    state             text        NOT NULL,
    reason            text        NOT NULL,
    details           jsonb       NOT NULL,
    alert_id          uuid,
    check_id          uuid,
    label_count       bigint      NOT NULL,
    requested_by      text        NOT NULL,
    create_time       timestamptz NOT NULL,
    expire_time       timestamptz NOT NULL,
    decided_by        text        NOT NULL DEFAULT '',
    decide_time       timestamptz,
    decision_note     text        NOT NULL DEFAULT '',
    training_run_id   text        NOT NULL DEFAULT '',
    train_time        timestamptz,           -- when the trainer took it
    new_version       text        NOT NULL DEFAULT '',
    message           text        NOT NULL DEFAULT '',
    request_id        text        NOT NULL DEFAULT '',  -- the caller's, for who asks twice
    body_sha256       text        NOT NULL DEFAULT '',
    CONSTRAINT retraining_requests_pkey PRIMARY KEY (retraining_id),
    CONSTRAINT retraining_requests_state CHECK (
        state IN ('PENDING', 'APPROVED', 'REJECTED', 'EXPIRED', 'TRAINING', 'COMPLETED', 'FAILED')
    ),
    CONSTRAINT retraining_requests_reason CHECK (
        reason IN ('DRIFT_DETECTED', 'ERROR_RATE_THRESHOLD', 'ACCURACY_DROP', 'SCHEDULED', 'MANUAL')
    )
);

-- One open request a model. The states are those of states.OPEN.
CREATE UNIQUE INDEX retraining_requests_open ON retraining_requests (model)
    WHERE state IN ('PENDING', 'APPROVED', 'TRAINING');
CREATE UNIQUE INDEX retraining_requests_request ON retraining_requests (requested_by, request_id)
    WHERE request_id <> '';
CREATE INDEX retraining_requests_model ON retraining_requests (model, retraining_id);
CREATE INDEX retraining_requests_check ON retraining_requests (check_id) WHERE check_id IS NOT NULL;
CREATE INDEX retraining_requests_run ON retraining_requests (training_run_id) WHERE training_run_id <> '';

-- Which alerts a request answers: the one that raised it, and those that fired for the same reason while it was open.
CREATE TABLE retraining_alerts (
    retraining_id uuid NOT NULL,
    alert_id      uuid NOT NULL,
    CONSTRAINT retraining_alerts_pkey PRIMARY KEY (retraining_id, alert_id),
    CONSTRAINT retraining_alerts_retraining_id FOREIGN KEY (retraining_id) REFERENCES retraining_requests
);
CREATE INDEX retraining_alerts_alert ON retraining_alerts (alert_id);

-- Each step of each request; only ever appended.
CREATE TABLE retraining_steps (
    step_number   bigint      GENERATED ALWAYS AS IDENTITY,
    retraining_id uuid        NOT NULL,
    step_time     timestamptz NOT NULL,
    state         text        NOT NULL,
    actor         text        NOT NULL,
    note          text        NOT NULL,
    CONSTRAINT retraining_steps_pkey PRIMARY KEY (retraining_id, step_number),
    CONSTRAINT retraining_steps_retraining_id FOREIGN KEY (retraining_id) REFERENCES retraining_requests
);

-- What checks and alerts have found: weighed at once, and again for as long as the alert fires or the check is its
-- version's newest by schedule. Each is written in the transaction that keeps its alert or its check, so that it is not
-- forgotten.
CREATE TABLE retraining_causes (
    cause_number bigint      GENERATED ALWAYS AS IDENTITY,
    model        text        NOT NULL,
    version      text        NOT NULL,
    reason       text        NOT NULL,
    details      jsonb       NOT NULL,
    alert_id     uuid,
    check_id     uuid,
    raises       boolean     NOT NULL,  -- or else it only belongs to what its check raises
    end_time     timestamptz,           -- a check's stands no longer than this
    weighed      boolean     NOT NULL DEFAULT false,
    CONSTRAINT retraining_causes_pkey PRIMARY KEY (cause_number),
    CONSTRAINT retraining_causes_alert UNIQUE (alert_id)
);
CREATE INDEX retraining_causes_model ON retraining_causes (model, cause_number);
