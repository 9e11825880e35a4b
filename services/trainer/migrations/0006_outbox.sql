-- Calls of remote workers on their way: see services/common/outbox/columns.sql.
CREATE TABLE trainer.outbox (
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
CREATE INDEX outbox_waiting ON trainer.outbox (destination, ordering_key, put_number) WHERE state = 'WAITING';
CREATE INDEX outbox_held ON trainer.outbox (hold_time) WHERE state = 'WAITING' AND hold_time IS NOT NULL;
CREATE INDEX outbox_failing ON trainer.outbox (destination) WHERE state = 'WAITING' AND error_reason <> '';
CREATE INDEX outbox_tried ON trainer.outbox (destination, attempt_time DESC) WHERE attempt_time IS NOT NULL;
CREATE INDEX outbox_arrived ON trainer.outbox (destination, end_time DESC) WHERE state = 'DELIVERED';
CREATE INDEX outbox_ended ON trainer.outbox (state, end_time) WHERE end_time IS NOT NULL;
CREATE INDEX outbox_failed ON trainer.outbox (destination, put_number) WHERE state = 'FAILED';
