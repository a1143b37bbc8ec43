-- How long the log is, its root, the size that was signed last, and the key that signs now.
SELECT a.size, a.root,
       (SELECT c.size FROM log_checkpoint c ORDER BY c.size DESC LIMIT 1) AS signed,
       (SELECT k.vkey FROM log_key k ORDER BY k.number DESC LIMIT 1) AS vkey
FROM log_append a ORDER BY a.size DESC LIMIT 1
