-- A lease that has not ended lasts until then at least. No row: the lane is somebody else's, or
-- would be as soon as anybody asked.
UPDATE lane SET until = greatest(until, %(until)s)
WHERE id = %(lane)s AND token = %(token)s AND until > %(now)s
RETURNING until
