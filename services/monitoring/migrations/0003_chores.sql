-- What is to be done now and then, by one replica at a time: whoever holds the lease. It saves work and keeps nobody
-- from anything: each chore is safe to run twice.
CREATE TABLE chores (
    name       text        NOT NULL,
    holder     uuid        NOT NULL,
    lease_time timestamptz NOT NULL,  -- until then it is the holder's
    CONSTRAINT chores_pkey PRIMARY KEY (name)
);
