-- How many attempts have failed since the log began. One that ended within the first moments of the
-- log may have a time before it, and is left out here as it is where they are looked up.
SELECT count(*) AS failures FROM attempt
WHERE state = 'ABORTED' AND ended_at >= (SELECT opened_at FROM epoch WHERE id = 1)
