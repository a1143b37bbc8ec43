-- A batch goes on: under whom, why, and where its file is now.
UPDATE batch SET ended = NULL, ended_at = NULL, principal = %(principal)s, reason = %(reason)s,
                 file = %(file)s
WHERE id = %(id)s
RETURNING lane
