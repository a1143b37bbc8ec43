-- Lanes: who may use a shared resource, one holder at a time (rows M02, M03) -----------------------

-- The authority on who holds a lane. Redis knows the token too, so that a reservation can check it
-- without coming here; what Redis forgets it learns again from here.
CREATE TABLE lane (
    id text PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    -- The fencing token: one more at every change of holder, never reused.
    token bigint NOT NULL DEFAULT 1,
    -- The oldest token whose work may still be settled. Behind `token` while the work of the
    -- holder before drains; the holder may begin when it has caught up.
    floor bigint NOT NULL DEFAULT 1,
    mode text NOT NULL DEFAULT 'cron' CHECK (mode IN ('cron', 'manual', 'paused')),
    principal text NOT NULL DEFAULT 'beat' CHECK (principal <> ''),
    reason text NOT NULL DEFAULT '',
    -- Whose tasks may be claimed: 0 those of no batch, else those of this batch; NULL nobody's.
    serves bigint DEFAULT 0,
    since timestamptz NOT NULL DEFAULT now(),
    granted_at timestamptz DEFAULT now(),
    until timestamptz, -- when a manual holder's lease ends unless it is renewed
    -- How the tenure before this one ended.
    ended text NOT NULL DEFAULT 'released'
        CHECK (ended IN ('taken', 'released', 'expired', 'revoked', 'withdrawn')),
    CHECK (floor BETWEEN 1 AND token),
    CHECK ((granted_at IS NOT NULL) = (floor = token)),
    CHECK ((mode = 'manual') = (until IS NOT NULL)),
    CHECK (mode = 'manual' OR (mode = 'cron' AND serves = 0) OR (mode = 'paused' AND serves IS NULL))
);

-- Every tenure of every lane, for good. Written by the trigger below alone.
CREATE TABLE lane_tenure (
    lane text NOT NULL REFERENCES lane,
    token bigint NOT NULL,
    mode text NOT NULL,
    principal text NOT NULL,
    reason text NOT NULL,
    asked_at timestamptz NOT NULL,
    granted_at timestamptz, -- NULL: it never began
    ended_at timestamptz,
    ended text,
    PRIMARY KEY (lane, token),
    CHECK ((ended IS NULL) OR (ended IN ('taken', 'released', 'expired', 'revoked', 'withdrawn')))
);

CREATE FUNCTION record_tenure() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.token = OLD.token THEN
        IF NEW.floor < OLD.floor
            OR (NEW.mode, NEW.principal, NEW.since) IS DISTINCT FROM (OLD.mode, OLD.principal, OLD.since)
        THEN
            RAISE EXCEPTION 'lane % changes hands without a new token', NEW.id
                USING ERRCODE = 'check_violation';
        END IF;
        IF NEW.floor > OLD.floor THEN
            UPDATE lane_tenure SET granted_at = NEW.granted_at
            WHERE lane = NEW.id AND token = NEW.token;
            UPDATE lane_tenure SET ended_at = NEW.granted_at
            WHERE lane = NEW.id AND token < NEW.token AND ended_at IS NULL;
        END IF;
        RETURN NEW;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF NEW.token <> OLD.token + 1 OR NEW.floor < OLD.floor THEN
            RAISE EXCEPTION 'the token of lane % goes from % to %: it only grows by one',
                NEW.id, OLD.token, NEW.token USING ERRCODE = 'check_violation';
        END IF;
        UPDATE lane_tenure SET ended = NEW.ended, ended_at = NEW.granted_at
        WHERE lane = NEW.id AND token = OLD.token;
        IF NEW.granted_at IS NOT NULL THEN
            UPDATE lane_tenure SET ended_at = NEW.granted_at
            WHERE lane = NEW.id AND token < OLD.token AND ended_at IS NULL;
        END IF;
    END IF;
    INSERT INTO lane_tenure (lane, token, mode, principal, reason, asked_at, granted_at)
    VALUES (NEW.id, NEW.token, NEW.mode, NEW.principal, NEW.reason, NEW.since, NEW.granted_at);
    RETURN NEW;
END $$;

CREATE TRIGGER lane_recorded AFTER INSERT OR UPDATE ON lane
    FOR EACH ROW EXECUTE FUNCTION record_tenure();

INSERT INTO lane (id, since, granted_at) VALUES ('default', 'epoch', 'epoch'), ('system', 'epoch', 'epoch');

-- What a batch is: tasks that run under one holder's token. Its items are tasks like any other.
CREATE TABLE batch (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lane text NOT NULL REFERENCES lane,
    client text NOT NULL REFERENCES client,
    principal text NOT NULL,
    reason text NOT NULL,
    file text NOT NULL,
    file_sha256 bytea NOT NULL,
    -- What the lines need not say, and how fast they go: without it the file says something else.
    options json NOT NULL,
    items integer NOT NULL CHECK (items > 0),
    began_at timestamptz NOT NULL,
    ended_at timestamptz,
    ended text CHECK (ended IN ('done', 'stopped', 'lost')),
    CHECK ((ended IS NULL) = (ended_at IS NULL))
);

-- The cron table's memory: what is known of each job, and what became of each slot (row M01) --------

CREATE TABLE cron_job (
    id text PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    lane text NOT NULL REFERENCES lane,
    schedule text NOT NULL,
    since timestamptz NOT NULL, -- when it was first seen with this schedule: no slot before is due
    seen timestamptz NOT NULL -- every slot up to here has a row in cron_run, or had one
);

CREATE TABLE cron_run (
    job text NOT NULL REFERENCES cron_job,
    slot timestamptz NOT NULL, -- the scheduled time, whenever its message came
    lane text NOT NULL REFERENCES lane,
    state text NOT NULL CHECK (state IN ('fired', 'running', 'done', 'failed', 'skipped', 'missed')),
    principal text NOT NULL DEFAULT 'beat', -- somebody else: started by hand
    -- The lane's token under which a run by hand may begin; 0: when the lane is cron's.
    fence bigint NOT NULL DEFAULT 0,
    slots integer NOT NULL DEFAULT 1 CHECK (slots > 0), -- more: missed ones before this too
    reason text NOT NULL DEFAULT '',
    fired_at timestamptz NOT NULL, -- when the row was written
    began_at timestamptz,
    until timestamptz, -- a run that has not ended by then counts as failed
    ended_at timestamptz,
    PRIMARY KEY (job, slot), -- a slot fires once
    CHECK ((began_at IS NOT NULL) = (state IN ('running', 'done', 'failed'))),
    CHECK ((until IS NOT NULL) = (began_at IS NOT NULL)),
    CHECK ((ended_at IS NULL) = (state IN ('fired', 'running')))
);
CREATE INDEX cron_run_open ON cron_run (job, slot) WHERE state IN ('fired', 'running');
CREATE INDEX cron_run_ended ON cron_run (job, state, ended_at);

ALTER TABLE task
    ADD COLUMN lane text NOT NULL DEFAULT 'default' REFERENCES lane,
    ADD COLUMN batch bigint NOT NULL DEFAULT 0,
    -- The lane's token under which the last attempt was claimed.
    ADD COLUMN fence bigint NOT NULL DEFAULT 0;
ALTER TABLE task DROP CONSTRAINT task_wait_check;
ALTER TABLE task ADD CONSTRAINT task_wait_check CHECK (wait IN
    ('dispatch', 'attempt', 'capacity', 'credit', 'no_agent', 'cooldown', 'lane'));
-- A lane that somebody holds may have a million tasks waiting: who claims does not pass them.
DROP INDEX task_ready;
CREATE INDEX task_ready ON task (lane, batch, ready_at, id) WHERE state = 'INIT';
CREATE INDEX task_batch ON task (batch, state) WHERE batch > 0;

GRANT SELECT, INSERT, UPDATE ON lane, batch TO clearlane_app;
GRANT SELECT ON lane_tenure TO clearlane_app;
-- What is long over is deleted.
GRANT SELECT, INSERT, UPDATE, DELETE ON cron_job, cron_run TO clearlane_app;
REVOKE EXECUTE ON FUNCTION record_tenure() FROM PUBLIC;
