-- The log: what moved credit or judgement, in the order in which it happened (rows M21, C7, C8) ------

-- Where in the log a transaction stands; those from before there was a log have no place in it.
ALTER TABLE ledger_transaction
    ADD COLUMN leaf bigint,
    DROP CONSTRAINT ledger_transaction_kind_check,
    DROP CONSTRAINT ledger_transaction_check,
    ADD CONSTRAINT ledger_transaction_kind_check
        CHECK (kind IN ('mint', 'settle', 'clear', 'top_up')),
    ADD CONSTRAINT ledger_transaction_check CHECK ((kind = 'settle') = (task IS NOT NULL));

-- A leaf belongs to the epoch that was open when it was appended; a commit and the close of an epoch
-- exclude each other.
CREATE TABLE epoch (
    id bigint PRIMARY KEY CHECK (id > 0),
    opened_at timestamptz NOT NULL,
    first bigint NOT NULL CHECK (first >= 0), -- its first leaf
    size bigint CHECK (size > first), -- of the log when it closed
    closed_at timestamptz,
    totals json,
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

INSERT INTO epoch (id, opened_at, first) VALUES (1, 'epoch', 0);
INSERT INTO log_append (size, at, entries, hashes, edge, root)
VALUES (0, 'epoch', '', '', '', sha256(''));

GRANT SELECT, INSERT ON log_append, log_tile TO clearlane_app;
GRANT SELECT, INSERT, UPDATE ON epoch TO clearlane_app;
