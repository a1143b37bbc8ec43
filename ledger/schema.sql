-- The ledger's tables as they stand. Must equal what the migrations build (a test compares).
-- PostgreSQL holds facts: what was asked, what was settled, how every attempt ended.

-- Configuration: small, read often, replaced whole ------------------------------------------

CREATE TABLE registry_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version bigint NOT NULL DEFAULT 1
);
INSERT INTO registry_version DEFAULT VALUES;

CREATE TABLE param (
    name text PRIMARY KEY,
    value jsonb NOT NULL
);

CREATE TABLE client (
    id text PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    owner text NOT NULL DEFAULT ''
);

CREATE TABLE agent (
    id text PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    spec jsonb NOT NULL,
    suspended boolean NOT NULL DEFAULT false
);

CREATE TABLE family (
    id text PRIMARY KEY CHECK (id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    size integer NOT NULL CHECK (size > 0),
    deadline_s double precision NOT NULL CHECK (deadline_s > 0),
    max_attempts integer NOT NULL CHECK (max_attempts > 0),
    spec jsonb NOT NULL
);

CREATE FUNCTION bump_registry_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE registry_version SET version = version + 1;
    RETURN NULL;
END $$;

CREATE TRIGGER param_version AFTER INSERT OR UPDATE OR DELETE ON param
    FOR EACH ROW EXECUTE FUNCTION bump_registry_version();
CREATE TRIGGER agent_version AFTER INSERT OR UPDATE OR DELETE ON agent
    FOR EACH ROW EXECUTE FUNCTION bump_registry_version();
CREATE TRIGGER family_version AFTER INSERT OR UPDATE OR DELETE ON family
    FOR EACH ROW EXECUTE FUNCTION bump_registry_version();

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

-- Tasks: the waiting room ---------------------------------------------------------------------

-- A task in INIT is either waiting or in flight; `ready_at` is when the dispatcher may claim it:
-- for a waiting task the instant it is worth trying, for one in flight the end of its claim.
CREATE TABLE task (
    id uuid PRIMARY KEY,
    client text REFERENCES client, -- NULL: it is a subtask
    family text NOT NULL REFERENCES family,
    type text NOT NULL,
    size integer NOT NULL CHECK (size > 0),
    state text NOT NULL DEFAULT 'INIT'
        CHECK (state IN ('INIT', 'COMMITTED', 'QUARANTINED', 'CANCELLED', 'EXPIRED')),
    attempt integer NOT NULL DEFAULT 0 CHECK (attempt >= 0),
    failures integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
    losses integer NOT NULL DEFAULT 0 CHECK (losses >= 0),
    wait text DEFAULT 'dispatch'
        CHECK (wait IN
            ('dispatch', 'attempt', 'capacity', 'credit', 'no_agent', 'cooldown', 'lane', 'budget')),
    ready_at timestamptz NOT NULL,
    avoid text,
    submitted_at timestamptz NOT NULL,
    expires_at timestamptz,
    ended_at timestamptz,
    reason text,
    idempotency_key text,
    content_sha256 bytea NOT NULL,
    lane text NOT NULL DEFAULT 'default' REFERENCES lane,
    batch bigint NOT NULL DEFAULT 0,
    -- The lane's token under which the last attempt was claimed.
    fence bigint NOT NULL DEFAULT 0,
    -- Of a subtask (row M23): the attempt in whose course an agent asked for it; the agents that wait
    -- for it, who pays last; what all subtasks of that attempt may cost together.
    parent uuid REFERENCES task,
    parent_attempt integer,
    chain text[],
    budget_ub bigint CHECK (budget_ub >= 0),
    -- The account that pays.
    payer text NOT NULL GENERATED ALWAYS AS
        (coalesce('client:' || client, 'agent:' || chain[cardinality(chain)])) STORED,
    CONSTRAINT task_client_or_parent CHECK (
        num_nulls(parent, parent_attempt, chain, budget_ub) = CASE WHEN client IS NULL THEN 0 ELSE 4 END),
    CONSTRAINT task_depth CHECK (cardinality(chain) BETWEEN 1 AND 4),
    UNIQUE (payer, idempotency_key),
    CHECK ((state = 'INIT') = (wait IS NOT NULL)),
    CHECK ((state = 'INIT') = (ended_at IS NULL))
);
-- A lane that somebody holds may have a million tasks waiting: who claims does not pass them.
CREATE INDEX task_ready ON task (lane, batch, ready_at, id) WHERE state = 'INIT';
CREATE INDEX task_batch ON task (batch, state) WHERE batch > 0;
CREATE INDEX task_in_flight ON task (id) WHERE state = 'INIT' AND wait = 'attempt';
CREATE INDEX task_expiry ON task (expires_at) WHERE state = 'INIT' AND expires_at IS NOT NULL;
CREATE INDEX task_recent ON task (submitted_at DESC, id DESC);
CREATE INDEX task_part ON task (parent, parent_attempt) WHERE parent IS NOT NULL;
CREATE INDEX task_part_open ON task (parent) WHERE parent IS NOT NULL AND state = 'INIT';

-- The payload is written once and read by the execute step: kept out of the row that changes.
CREATE TABLE task_body (
    task uuid PRIMARY KEY REFERENCES task ON DELETE CASCADE,
    payload json NOT NULL
);

CREATE TABLE task_result (
    task uuid PRIMARY KEY,
    agent text NOT NULL,
    attempt integer NOT NULL,
    cost_ub bigint NOT NULL CHECK (cost_ub >= 0),
    output json NOT NULL
);

-- How each attempt ended. Written once, when it ends.
CREATE TABLE attempt (
    task uuid NOT NULL,
    attempt integer NOT NULL,
    state text NOT NULL CHECK (state IN ('COMMITTED', 'ABORTED')),
    outcome text NOT NULL,
    agent text,
    cost_ub bigint NOT NULL CHECK (cost_ub >= 0),
    latency_s double precision NOT NULL,
    reason text NOT NULL,
    -- What the failure did to the agent's risk premium and quality, where that is known.
    f_before double precision,
    f_after double precision,
    s_before double precision,
    s_after double precision,
    ended_at timestamptz NOT NULL,
    PRIMARY KEY (task, attempt),
    CHECK (num_nulls(f_before, f_after, s_before, s_after)
           = ANY (CASE state WHEN 'ABORTED' THEN ARRAY[0, 4] ELSE ARRAY[4] END))
);

-- Results and attempts belong to tasks. A foreign key would look up every row on its own, on the
-- way of every settlement.
CREATE FUNCTION require_tasks() RETURNS trigger LANGUAGE plpgsql
SET search_path = public, pg_temp SET enable_seqscan = off AS $$
DECLARE
    tasks uuid[];
BEGIN
    SELECT array_agg(DISTINCT i.task) INTO tasks FROM inserted i;
    IF (SELECT count(*) FROM task t WHERE t.id = ANY (tasks)) < cardinality(tasks) THEN
        RAISE EXCEPTION 'a row of % names a task that does not exist', TG_TABLE_NAME
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION forget_tasks() RETURNS trigger LANGUAGE plpgsql
SET search_path = public, pg_temp AS $$
BEGIN
    DELETE FROM task_result r USING deleted d WHERE r.task = d.id;
    DELETE FROM attempt a USING deleted d WHERE a.task = d.id;
    RETURN NULL;
END $$;

CREATE TRIGGER result_of_task AFTER INSERT ON task_result
    REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION require_tasks();
CREATE TRIGGER attempt_of_task AFTER INSERT ON attempt
    REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION require_tasks();
CREATE TRIGGER task_forgotten AFTER DELETE ON task
    REFERENCING OLD TABLE AS deleted
    FOR EACH STATEMENT EXECUTE FUNCTION forget_tasks();

-- Money: double entry, integer micro-credits ----------------------------------------------------

-- A domain is checked when a name is written; a CHECK of the table, whenever a balance moves.
CREATE DOMAIN account_id AS text
    CHECK (VALUE ~ '^(client|agent|system):[A-Za-z0-9][A-Za-z0-9._-]{0,63}$');

CREATE TABLE account (
    id account_id PRIMARY KEY,
    quota_ub bigint CHECK (quota_ub >= 0),
    balance_ub bigint NOT NULL DEFAULT 0,
    opened_at timestamptz NOT NULL,
    -- Settlements that moved it: tasks that it paid for or was paid for.
    settled bigint NOT NULL DEFAULT 0,
    -- No quota: no floor. Only issuance has none; its balance is minus all that was ever minted.
    CHECK ((quota_ub IS NULL) = (id = 'system:issuance')),
    CONSTRAINT balance_within_quota CHECK (quota_ub IS NULL OR balance_ub >= -quota_ub)
);

CREATE TABLE ledger_transaction (
    id bigint PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('mint', 'settle', 'clear', 'top_up')),
    task uuid UNIQUE,
    at timestamptz NOT NULL,
    leaf bigint, -- where in the log it stands; NULL before there was a log
    CHECK ((kind = 'settle') = (task IS NOT NULL))
);
CREATE INDEX ledger_transaction_other ON ledger_transaction (id) WHERE kind <> 'settle';

CREATE TABLE posting (
    transaction bigint NOT NULL,
    account text NOT NULL,
    amount_ub bigint NOT NULL CHECK (amount_ub <> 0),
    PRIMARY KEY (transaction, account)
);
CREATE INDEX posting_account ON posting (account, transaction);

-- All postings of a transaction come in one statement, with the transaction itself: they must
-- cancel out and name accounts that exist. They alone move balances and count settlements. By sets,
-- where foreign keys would cost a probe per row on the hottest table; account by account through the
-- index, under whatever plans the session makes, because it keeps those that it made while the tables
-- were small.
CREATE FUNCTION apply_postings() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    transactions bigint[];
    broken bigint;
    made bigint;
    settlements bigint;
    accounts bigint;
    moved bigint;
BEGIN
    SELECT array_agg(s.transaction), min(s.transaction) FILTER (WHERE s.total_ub <> 0)
    INTO transactions, broken
    FROM (
        SELECT i.transaction, sum(i.amount_ub) AS total_ub FROM inserted i GROUP BY i.transaction
    ) s;
    IF broken IS NOT NULL THEN
        RAISE EXCEPTION 'postings of transaction % do not sum to zero', broken
            USING ERRCODE = 'check_violation';
    END IF;
    SELECT count(*), count(*) FILTER (WHERE t.kind = 'settle') INTO made, settlements
    FROM ledger_transaction t
    WHERE t.id = ANY (transactions) AND t.xmin = pg_current_xact_id()::xid;
    IF made < cardinality(transactions) THEN
        RAISE EXCEPTION 'a posting names a transaction that was not made with it'
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    IF settlements > 0 AND settlements < made THEN
        RAISE EXCEPTION 'settlements and other transactions come in statements of their own'
            USING ERRCODE = 'check_violation';
    END IF;
    SELECT count(DISTINCT i.account) INTO accounts FROM inserted i;
    UPDATE account a
    SET balance_ub = a.balance_ub + s.delta_ub,
        settled = a.settled + CASE WHEN settlements > 0 THEN s.postings ELSE 0 END
    FROM (
        SELECT i.account, sum(i.amount_ub)::bigint AS delta_ub, count(*) AS postings
        FROM inserted i GROUP BY i.account
    ) s
    WHERE a.id = s.account;
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved < accounts THEN
        RAISE EXCEPTION 'a posting names an account that does not exist'
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER posting_applied AFTER INSERT ON posting
    REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION apply_postings();

-- Facts are never edited: by trigger here, by privilege below.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is refused: the ledger is append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE TRIGGER transaction_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_transaction
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER posting_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON posting
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The log: what moved credit or judgement, in the order in which it happened (rows M21, C7, C8) ------

-- A leaf belongs to the epoch that was open when it was appended; a commit and the close of an epoch
-- exclude each other.
CREATE TABLE epoch (
    id bigint PRIMARY KEY CHECK (id > 0),
    opened_at timestamptz NOT NULL,
    first bigint NOT NULL CHECK (first >= 0), -- its first leaf
    transaction bigint NOT NULL CHECK (transaction >= 0), -- its first transaction
    -- What had been minted and burned in all before it.
    minted_ub bigint NOT NULL,
    burned_ub bigint NOT NULL,
    size bigint CHECK (size > first), -- of the log when it closed
    closed_at timestamptz,
    totals jsonb,
    balances_sha256 bytea CHECK (octet_length(balances_sha256) = 32),
    final_at timestamptz, -- when the quorum had signed a checkpoint that holds all of it
    CHECK (num_nulls(size, closed_at, totals, balances_sha256) IN (0, 4)),
    CHECK (final_at IS NULL OR closed_at IS NOT NULL)
);
CREATE UNIQUE INDEX epoch_open ON epoch ((true)) WHERE closed_at IS NULL;
CREATE INDEX epoch_not_final ON epoch (size) WHERE closed_at IS NOT NULL AND final_at IS NULL;

-- One row for each transaction that appended. It starts where another one ended, and no other does:
-- the leaves are dense, and a size has one root. `entries` have two bytes of length before each, as
-- the log's bundles; `edge` holds the roots of the perfect trees that the log consists of then.
CREATE TABLE log_append (
    size bigint PRIMARY KEY, -- of the log afterwards
    first bigint UNIQUE REFERENCES log_append,
    epoch bigint REFERENCES epoch,
    at timestamptz NOT NULL,
    entries bytea NOT NULL,
    hashes bytea NOT NULL CHECK (octet_length(hashes) = 32 * (size - coalesce(first, 0))),
    edge bytea NOT NULL CHECK (octet_length(edge) % 32 = 0),
    root bytea NOT NULL CHECK (octet_length(root) = 32),
    CHECK (CASE WHEN first IS NULL THEN size = 0 AND epoch IS NULL
           ELSE size > first AND epoch IS NOT NULL END)
);
-- Out of the row, as they are: hashes and names of tasks do not shrink.
ALTER TABLE log_append ALTER entries SET STORAGE EXTERNAL, ALTER hashes SET STORAGE EXTERNAL;

-- 256 hashes of a level of the tree, once there are so many.
CREATE TABLE log_tile (
    level smallint NOT NULL CHECK (level >= 0),
    number bigint NOT NULL CHECK (number >= 0),
    hashes bytea NOT NULL CHECK (octet_length(hashes) = 32 * 256),
    root bytea NOT NULL CHECK (octet_length(root) = 32),
    PRIMARY KEY (level, number)
);
ALTER TABLE log_tile ALTER hashes SET STORAGE EXTERNAL;

CREATE TRIGGER log_append_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON log_append
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER log_tile_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON log_tile
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
-- Of a closed epoch nothing changes any more but, once, that it is final.
CREATE TRIGGER epoch_immutable BEFORE UPDATE ON epoch
    FOR EACH ROW WHEN (OLD.closed_at IS NOT NULL AND (
        OLD.final_at IS NOT NULL
        OR (OLD.id, OLD.opened_at, OLD.first, OLD.transaction, OLD.minted_ub, OLD.burned_ub,
            OLD.size, OLD.closed_at, OLD.totals, OLD.balances_sha256)
            IS DISTINCT FROM
            (NEW.id, NEW.opened_at, NEW.first, NEW.transaction, NEW.minted_ub, NEW.burned_ub,
            NEW.size, NEW.closed_at, NEW.totals, NEW.balances_sha256)
    )) EXECUTE FUNCTION refuse_change();
CREATE TRIGGER epoch_kept BEFORE DELETE OR TRUNCATE ON epoch
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

INSERT INTO epoch (id, opened_at, first, transaction, minted_ub, burned_ub)
VALUES (1, 'epoch', 0, 0, 0, 0);
INSERT INTO log_append (size, at, entries, hashes, edge, root)
VALUES (0, 'epoch', '', '', '', sha256(''));

-- The keys that the log is signed with, one after the other: the newest signs. `leaf`: where the log
-- announces it, signed for by the one before too; the first one is announced by nobody.
CREATE TABLE log_key (
    number integer PRIMARY KEY CHECK (number > 0),
    vkey text NOT NULL UNIQUE,
    leaf bigint UNIQUE CHECK (leaf >= 0),
    at timestamptz NOT NULL,
    CHECK ((number = 1) = (leaf IS NULL))
);

-- What the log has committed to: the note of a size, signed by its key.
CREATE TABLE log_checkpoint (
    size bigint PRIMARY KEY REFERENCES log_append,
    note text NOT NULL,
    at timestamptz NOT NULL,
    quorum_at timestamptz -- when enough witnesses had signed it too
);
CREATE INDEX log_checkpoint_quorum ON log_checkpoint (size) WHERE quorum_at IS NOT NULL;

-- Signatures of witnesses on it, as they go below the note; `witness` is the verifier key.
CREATE TABLE log_cosignature (
    size bigint REFERENCES log_checkpoint,
    witness text,
    line text NOT NULL,
    at timestamptz NOT NULL,
    PRIMARY KEY (size, witness)
);
CREATE INDEX log_cosignature_witness ON log_cosignature (witness, size);

-- How it went when a witness was asked last, and for which size; no fault: it has signed. It accuses
-- when it answers that the log is not the one that it has signed.
CREATE TABLE log_witness (
    witness text PRIMARY KEY,
    size bigint NOT NULL,
    fault text NOT NULL,
    at timestamptz NOT NULL,
    accuses boolean NOT NULL DEFAULT false
);

CREATE TRIGGER log_key_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON log_key
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER log_cosignature_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON log_cosignature
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
-- Of a checkpoint nothing changes but, once, that the quorum has signed it.
CREATE TRIGGER log_checkpoint_immutable BEFORE UPDATE ON log_checkpoint
    FOR EACH ROW WHEN (
        OLD.quorum_at IS NOT NULL
        OR (OLD.size, OLD.note, OLD.at) IS DISTINCT FROM (NEW.size, NEW.note, NEW.at)
    ) EXECUTE FUNCTION refuse_change();
CREATE TRIGGER log_checkpoint_kept BEFORE DELETE OR TRUNCATE ON log_checkpoint
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Snapshots of judgement, so that a wiped Redis comes back with what it knew -----------------------

CREATE TABLE pool_snapshot (
    agent text PRIMARY KEY REFERENCES agent ON DELETE CASCADE,
    state jsonb NOT NULL,
    at timestamptz NOT NULL
);

-- Accounts that always exist ------------------------------------------------------------------------

INSERT INTO account (id, quota_ub, opened_at) VALUES
    ('system:issuance', NULL, 'epoch'),
    ('system:burn', 0, 'epoch'),
    ('system:commons', 0, 'epoch');

-- Privileges: our processes act as this role, which may add facts but not change them --------------

DO $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'clearlane_app') THEN
        CREATE ROLE clearlane_app NOLOGIN;
    END IF;
    EXECUTE format('GRANT clearlane_app TO %I', current_user);
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- another installation on this server created it at the same moment
END $$;
GRANT USAGE ON SCHEMA public TO clearlane_app;
GRANT SELECT, INSERT, UPDATE ON
    registry_version, param, client, agent, family, task, pool_snapshot TO clearlane_app;
GRANT SELECT, INSERT ON
    task_body, task_result, attempt, ledger_transaction, posting TO clearlane_app;
-- Balances move through the postings' trigger alone, which acts as the schema's owner; nobody else
-- may attach its function to a table of their own.
REVOKE EXECUTE ON FUNCTION apply_postings() FROM PUBLIC;
GRANT SELECT, INSERT (id, quota_ub, opened_at), UPDATE (quota_ub) ON account TO clearlane_app;

-- Tokens --------------------------------------------------------------------------------------------

-- Who may speak to the gateway. Of a token only the hash of its secret is kept.

CREATE TABLE token (
    id text PRIMARY KEY CHECK (id ~ '^[0-9a-f]{12}$'),
    secret_sha256 bytea NOT NULL CHECK (octet_length(secret_sha256) = 32),
    role text NOT NULL
        CHECK (role IN ('client', 'agent', 'operator', 'approver', 'viewer', 'replica')),
    client text REFERENCES client,
    agent text REFERENCES agent,
    principal text NOT NULL CHECK (principal ~ '^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$'),
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    CHECK ((role = 'client') = (client IS NOT NULL)),
    CHECK ((role = 'agent') = (agent IS NOT NULL)),
    CHECK (expires_at > created_at)
);

-- Revoking is final; nothing else of a token changes.
CREATE TRIGGER token_revoked BEFORE UPDATE ON token
    FOR EACH ROW WHEN (OLD.revoked_at IS NOT NULL) EXECUTE FUNCTION refuse_change();
GRANT SELECT, INSERT, UPDATE (revoked_at) ON token TO clearlane_app;

-- Who holds a lane is changed by our processes; what was is written by the trigger alone.
GRANT SELECT, INSERT, UPDATE ON lane, batch TO clearlane_app;
GRANT SELECT ON lane_tenure TO clearlane_app;
-- What is long over is deleted.
GRANT SELECT, INSERT, UPDATE, DELETE ON cron_job, cron_run TO clearlane_app;
REVOKE EXECUTE ON FUNCTION record_tenure() FROM PUBLIC;
GRANT SELECT, INSERT ON log_append, log_tile TO clearlane_app;
GRANT SELECT, INSERT, UPDATE ON epoch TO clearlane_app;
GRANT SELECT, INSERT ON log_key, log_checkpoint, log_cosignature TO clearlane_app;
GRANT UPDATE (quorum_at) ON log_checkpoint TO clearlane_app;
GRANT SELECT, INSERT, UPDATE ON log_witness TO clearlane_app;
