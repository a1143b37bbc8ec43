-- Batches, newest first; only one if it is named. running: its lane serves it now.
SELECT b.id, b.lane, b.client, b.principal, b.reason, b.file, b.file_sha256, b.options, b.items,
       b.began_at, b.ended_at, b.ended, l.serves = b.id AS running
FROM batch b JOIN lane l ON l.id = b.lane
WHERE CAST(%(id)s AS bigint) IS NULL OR b.id = %(id)s
ORDER BY b.id DESC
LIMIT %(limit)s
