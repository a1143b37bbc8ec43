-- Tenures of a lane, newest first, before a token; of all lanes unless one is named.
SELECT lane, token, mode, principal, reason, asked_at, granted_at, ended_at, ended
FROM lane_tenure
WHERE (CAST(%(lane)s AS text) IS NULL OR lane = %(lane)s)
  AND (CAST(%(before)s AS bigint) IS NULL OR token < %(before)s)
ORDER BY asked_at DESC, lane, token DESC
LIMIT %(limit)s
