-- Another holder, another token. It may begin at once if nothing of the one before is in flight.
UPDATE lane l
SET token = l.token + 1,
    floor = CASE WHEN %(granted)s THEN l.token + 1 ELSE l.floor END,
    granted_at = CASE WHEN %(granted)s THEN CAST(%(now)s AS timestamptz) END,
    mode = %(mode)s, principal = %(principal)s, reason = %(reason)s, serves = %(serves)s,
    since = %(now)s, until = %(until)s, ended = %(ended)s
WHERE l.id = %(lane)s AND l.token = %(token)s
RETURNING l.token
