-- Tasks of runs that are trained elsewhere: a row for each worker that has one, or is to have it.
CREATE TABLE trainer.outside_tasks (
    task_id       uuid        NOT NULL,
    run_id        uuid        NOT NULL,
    number        integer     NOT NULL,                                    -- 1, 2, 3 … of the run
    attempt       integer     NOT NULL,                                    -- of the run, that follows it
    executor      text        NOT NULL,
    state         text        NOT NULL DEFAULT 'PREPARING',
    labels        text[]      NOT NULL DEFAULT '{}',                       -- what its worker must have
    worker        text        NOT NULL DEFAULT '',                         -- who has it
    token_sha256  text        NOT NULL DEFAULT '',
    spec          jsonb       NOT NULL,                                    -- the task, as task.json has it
    create_time   timestamptz NOT NULL DEFAULT clock_timestamp(),
    heard_time    timestamptz NOT NULL DEFAULT clock_timestamp(),          -- when its worker last gave a sign of life
    end_time      timestamptz,
    sequence      bigint      NOT NULL DEFAULT 0,                          -- of the last report
    end_sha256    text        NOT NULL DEFAULT '',                         -- of the request that ended it
    outcome       jsonb,
    artifacts     jsonb       NOT NULL DEFAULT '[]',                       -- files at URLs, until they are here
    reason        text        NOT NULL DEFAULT '',
    message       text        NOT NULL DEFAULT '',
    CONSTRAINT outside_tasks_pkey PRIMARY KEY (task_id),
    CONSTRAINT outside_tasks_run FOREIGN KEY (run_id) REFERENCES trainer.training_runs ON DELETE CASCADE,
    CONSTRAINT outside_tasks_number UNIQUE (run_id, number),
    CONSTRAINT outside_tasks_state CHECK (state IN ('PREPARING', 'WAITING', 'RUNNING', 'COMPLETED', 'FAILED', 'VOID'))
);
CREATE UNIQUE INDEX outside_tasks_token ON trainer.outside_tasks (token_sha256) WHERE token_sha256 <> '';
CREATE UNIQUE INDEX outside_tasks_live ON trainer.outside_tasks (run_id)
    WHERE state IN ('PREPARING', 'WAITING', 'RUNNING');
CREATE INDEX outside_tasks_waiting ON trainer.outside_tasks (executor, create_time) WHERE state = 'WAITING';

-- What a worker told, until whoever follows the run has read it.
CREATE TABLE trainer.outside_events (
    task_id uuid   NOT NULL,
    number  bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    kind    text   NOT NULL,                                               -- EPOCHS, LOG, CHECKPOINT
    body    jsonb  NOT NULL DEFAULT '{}',
    chunk   bytea  NOT NULL DEFAULT '',
    CONSTRAINT outside_events_pkey PRIMARY KEY (task_id, number),
    CONSTRAINT outside_events_task FOREIGN KEY (task_id) REFERENCES trainer.outside_tasks ON DELETE CASCADE
);
