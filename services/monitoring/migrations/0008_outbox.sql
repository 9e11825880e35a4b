-- What is on its way to others: see services/common/outbox/columns.sql.
CREATE TABLE monitoring.outbox (
    message_id    uuid        NOT NULL,                               -- the same at every attempt: receivers know it
    put_number    bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,  -- the order of putting, whatever the clocks say
    destination   text        NOT NULL,                               -- one message at a time is on its way there
    ordering_key  text        NOT NULL,                               -- those of one arrive in the order of putting
    body          bytea       NOT NULL,                               -- the same at every attempt; empty once it ended
    state         text        NOT NULL DEFAULT 'WAITING',
    put_time      timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_time      timestamptz NOT NULL DEFAULT clock_timestamp(),     -- not claimed before; once claimed, the lease's end
    hold_time     timestamptz,                                        -- until then nothing else goes to the destination
    give_up_time  timestamptz NOT NULL,                               -- not tried again after
    attempt       integer     NOT NULL DEFAULT 0,                     -- claims so far, those that died included
    attempt_time  timestamptz,                                        -- of the latest
    token         bigint      NOT NULL DEFAULT 0,                     -- grows with each claim
    worker_id     text        NOT NULL DEFAULT '',                    -- who has it, or had it last
    end_time      timestamptz,
    error_reason  text        NOT NULL DEFAULT '',                    -- of the latest attempt; '': it has not failed
    error_message text        NOT NULL DEFAULT '',
    CONSTRAINT outbox_pkey PRIMARY KEY (message_id),
    CONSTRAINT outbox_state CHECK (state IN ('WAITING', 'DELIVERED', 'FAILED')),
    CONSTRAINT outbox_end CHECK ((state = 'WAITING') = (end_time IS NULL))
);
CREATE INDEX outbox_waiting ON monitoring.outbox (destination, ordering_key, put_number) WHERE state = 'WAITING';
CREATE INDEX outbox_held ON monitoring.outbox (hold_time) WHERE state = 'WAITING' AND hold_time IS NOT NULL;
CREATE INDEX outbox_failing ON monitoring.outbox (destination) WHERE state = 'WAITING' AND error_reason <> '';
CREATE INDEX outbox_tried ON monitoring.outbox (destination, attempt_time DESC) WHERE attempt_time IS NOT NULL;
CREATE INDEX outbox_arrived ON monitoring.outbox (destination, end_time DESC) WHERE state = 'DELIVERED';
CREATE INDEX outbox_ended ON monitoring.outbox (state, end_time) WHERE end_time IS NOT NULL;
CREATE INDEX outbox_failed ON monitoring.outbox (destination, put_number) WHERE state = 'FAILED';

-- Who is told of alerts.
CREATE TABLE channels (
    name        text        NOT NULL,
    kind        text        NOT NULL,
    shown_url   text        NOT NULL,                     -- without what may be secret
    signed      boolean     NOT NULL DEFAULT false,       -- whether a webhook has a secret
    sealed      bytea,                                    -- the target as JSON, encrypted; see common/sealing.py
    plain       bytea,                                    -- or as it is, where nothing of it is secret
    update_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_by  text        NOT NULL,
    test_time   timestamptz,                              -- when it was last tested as it is
    test_error  text        NOT NULL DEFAULT '',          -- why that did not arrive; '': it did
    test_arrival_time timestamptz,                        -- when a test of it as it is last arrived
    CONSTRAINT channels_pkey PRIMARY KEY (name),
    CONSTRAINT channels_kind CHECK (kind IN ('webhook', 'apprise')),
    CONSTRAINT channels_target CHECK (num_nonnulls(sealed, plain) = 1)
);

-- Who changed what of them; only ever appended.
CREATE TABLE channel_changes (
    change_number bigint      GENERATED ALWAYS AS IDENTITY,
    change_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    name          text        NOT NULL,
    before        jsonb,                                  -- kind, shown_url and signed; NULL: there was none
    after         jsonb,                                  -- likewise; NULL: it was deleted
    changed_by    text        NOT NULL,
    CONSTRAINT channel_changes_pkey PRIMARY KEY (change_number)
);
CREATE INDEX channel_changes_name ON channel_changes (name, change_number);
