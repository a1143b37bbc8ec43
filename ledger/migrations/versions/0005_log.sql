-- The log: what moved credit or judgement, in the order in which it happened (rows M21, C7, C8) ------

-- Where in the log a transaction stands; those from before there was a log have no place in it.
ALTER TABLE ledger_transaction
    ADD COLUMN leaf bigint,
    DROP CONSTRAINT ledger_transaction_kind_check,
    DROP CONSTRAINT ledger_transaction_check,
    ADD CONSTRAINT ledger_transaction_kind_check
        CHECK (kind IN ('mint', 'settle', 'clear', 'top_up')),
    ADD CONSTRAINT ledger_transaction_check CHECK ((kind = 'settle') = (task IS NOT NULL));

-- How many tasks each account settled, counted by the trigger of the postings from here on.
ALTER TABLE account ADD COLUMN settled bigint NOT NULL DEFAULT 0;
UPDATE account a SET settled = s.settled
FROM (
    SELECT p.account, count(*) AS settled
    FROM posting p JOIN ledger_transaction t ON t.id = p.transaction
    WHERE t.kind = 'settle' GROUP BY p.account
) s
WHERE a.id = s.account;

-- All postings of a transaction come in one statement, with the transaction itself: they must
-- cancel out and name accounts that exist. They alone move balances and count settlements. By sets,
-- where foreign keys would cost a probe per row on the hottest table; account by account through the
-- index, under whatever plans the session makes, because it keeps those that it made while the tables
-- were small.
CREATE OR REPLACE FUNCTION apply_postings() RETURNS trigger LANGUAGE plpgsql
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

-- How it went when a witness was asked last, and for which size; no fault: it has signed.
CREATE TABLE log_witness (
    witness text PRIMARY KEY,
    size bigint NOT NULL,
    fault text NOT NULL,
    at timestamptz NOT NULL
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

GRANT SELECT, INSERT ON log_append, log_tile TO clearlane_app;
GRANT SELECT, INSERT, UPDATE ON epoch TO clearlane_app;
GRANT SELECT, INSERT ON log_key, log_checkpoint, log_cosignature TO clearlane_app;
GRANT UPDATE (quorum_at) ON log_checkpoint TO clearlane_app;
GRANT SELECT, INSERT, UPDATE ON log_witness TO clearlane_app;
