-- A witness's signature on a checkpoint, unless it is there.
INSERT INTO log_cosignature (size, witness, line, at)
VALUES (%(size)s, %(witness)s, %(line)s, %(now)s)
ON CONFLICT (size, witness) DO NOTHING
