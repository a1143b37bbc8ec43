-- A checkpoint, unless this size has one, or its key signs no more.
INSERT INTO log_checkpoint (size, note, at)
SELECT %(size)s, %(note)s, %(now)s
WHERE (SELECT k.vkey FROM log_key k ORDER BY k.number DESC LIMIT 1) = %(vkey)s
ON CONFLICT (size) DO NOTHING RETURNING size
