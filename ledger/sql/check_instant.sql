-- All that this transaction reads is of one instant.
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY
