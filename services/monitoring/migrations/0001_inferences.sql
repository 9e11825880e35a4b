-- An inference id is a UUIDv7: it begins with its time, and ids sort by time. So the id alone is the partition key,
-- the primary key and the order of every list, and a duplicate always meets its twin.
-- Partitions, one a day (UTC), are made by the service: see services/monitoring/store/days.py.
CREATE TABLE inferences (
    inference_id  uuid             NOT NULL,
    event_time    timestamptz      NOT NULL,  -- the time in the id, for people and dashboards
    received_time timestamptz      NOT NULL DEFAULT now(),
    latency_ms    double precision NOT NULL,
    row_count     integer          NOT NULL,
    confidence    double precision,
    model         text             NOT NULL,
    version       text             NOT NULL,
    framework     text             NOT NULL,
    request_id    text             NOT NULL,
    user_id       text             NOT NULL,
    session_id    text             NOT NULL,
    error_code    text             NOT NULL,  -- empty: the prediction succeeded
    features      bytea,                      -- serialised Payload; jsonb would refuse NaN
    prediction    bytea,
    outcomes      text[],                     -- what the model said of each row: JSON literals, see outcomes.py
    CONSTRAINT inferences_pkey PRIMARY KEY (inference_id)
) PARTITION BY RANGE (inference_id);

CREATE INDEX inferences_model ON inferences (model, inference_id);
CREATE INDEX inferences_user ON inferences (user_id, inference_id) WHERE user_id <> '';
CREATE INDEX inferences_session ON inferences (session_id, inference_id) WHERE session_id <> '';
CREATE INDEX inferences_errors ON inferences (inference_id) WHERE error_code <> '';

-- Feedback is only ever appended. It lies in days of its own, dropped with their inferences.
CREATE SEQUENCE feedback_numbers;
CREATE TABLE feedback (
    inference_id    uuid        NOT NULL,
    row_index       integer     NOT NULL,
    feedback_time   timestamptz NOT NULL,
    feedback_number bigint      NOT NULL DEFAULT nextval('feedback_numbers'),  -- the order of arrival
    actual_outcome  jsonb,
    outcome_literal text,                      -- the outcome as it is compared with inferences.outcomes
    correct         boolean,                   -- as the caller said; null: compare
    recorded_by     text        NOT NULL,
    CONSTRAINT feedback_pkey PRIMARY KEY (inference_id, row_index, feedback_time, feedback_number)
) PARTITION BY RANGE (inference_id);

-- Events that were refused, kept for a while for people to look at; bounded in number.
CREATE TABLE quarantined_events (
    event_number  bigint      GENERATED ALWAYS AS IDENTITY,
    received_time timestamptz NOT NULL DEFAULT now(),
    sent_by       text        NOT NULL,
    reason        text        NOT NULL,
    message       text        NOT NULL,
    event         bytea,                       -- serialised InferenceEvent; without payloads, or null, where large
    CONSTRAINT quarantined_events_pkey PRIMARY KEY (event_number)
);
