-- Another holder, another token. It may begin at once if nothing of the one before is in flight.
-- Never before the one before began: who waited for the locks, or has a clock that is behind, brings
-- an instant that is older than that.
UPDATE lane l
SET token = l.token + 1,
    floor = CASE WHEN %(granted)s THEN l.token + 1 ELSE l.floor END,
    granted_at = CASE WHEN %(granted)s
        THEN greatest(CAST(%(now)s AS timestamptz), l.since, l.granted_at) END,
    mode = %(mode)s, principal = %(principal)s, reason = %(reason)s, serves = %(serves)s,
    since = greatest(CAST(%(now)s AS timestamptz), l.since, l.granted_at),
    until = %(until)s, ended = %(ended)s
WHERE l.id = %(lane)s AND l.token = %(token)s
RETURNING l.token
