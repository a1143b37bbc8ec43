-- The quorum has signed a checkpoint.
UPDATE log_checkpoint SET quorum_at = %(now)s WHERE size = %(size)s AND quorum_at IS NULL
