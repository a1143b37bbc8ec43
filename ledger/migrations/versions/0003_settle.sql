-- Settling by sets: what was checked row by row is checked once a statement.

ALTER TABLE account DROP CONSTRAINT account_id_check;
-- A domain is checked when a name is written; a CHECK of the table, whenever a balance moves.
CREATE DOMAIN account_id AS text
    CHECK (VALUE ~ '^(client|agent|system):[A-Za-z0-9][A-Za-z0-9._-]{0,63}$');
ALTER TABLE account ALTER COLUMN id TYPE account_id;

-- Results and attempts belong to tasks. A foreign key would look up every row on its own, on the
-- way of every settlement.
ALTER TABLE task_result DROP CONSTRAINT task_result_task_fkey;
ALTER TABLE attempt DROP CONSTRAINT attempt_task_fkey;

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

-- All postings of a transaction come in one statement, with the transaction itself: they must
-- cancel out and name accounts that exist. They alone move balances. By sets, where foreign keys
-- would cost a probe per row on the hottest table; by lists of keys and without sequential scans,
-- because a session keeps the plans that it made while the tables were small.
CREATE OR REPLACE FUNCTION apply_postings() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = public, pg_temp SET enable_seqscan = off AS $$
DECLARE
    transactions bigint[];
    broken bigint;
    accounts text[];
    deltas_ub bigint[];
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
    IF (
        SELECT count(*) FROM ledger_transaction t
        WHERE t.id = ANY (transactions) AND t.xmin = pg_current_xact_id()::xid
    ) < cardinality(transactions) THEN
        RAISE EXCEPTION 'a posting names a transaction that was not made with it'
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    SELECT array_agg(s.account), array_agg(s.delta_ub) INTO accounts, deltas_ub
    FROM (
        SELECT i.account, sum(i.amount_ub) AS delta_ub FROM inserted i GROUP BY i.account
    ) s;
    UPDATE account a SET balance_ub = a.balance_ub + deltas_ub[array_position(accounts, a.id::text)]
    WHERE a.id = ANY (accounts);
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved < cardinality(accounts) THEN
        RAISE EXCEPTION 'a posting names an account that does not exist'
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END $$;
