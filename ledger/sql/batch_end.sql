-- A batch has ended, unless it goes on already, under a newer token.
UPDATE batch b SET ended = %(ended)s, ended_at = %(now)s
WHERE b.id = %(id)s AND b.ended IS NULL AND NOT EXISTS (
    SELECT FROM lane l WHERE l.id = b.lane AND l.serves = b.id AND l.token > %(token)s
)
