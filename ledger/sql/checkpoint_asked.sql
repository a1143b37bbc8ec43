-- How it went with a witness.
INSERT INTO log_witness (witness, size, fault, at)
VALUES (%(witness)s, %(size)s, %(fault)s, %(now)s)
ON CONFLICT (witness) DO UPDATE
SET size = EXCLUDED.size, fault = EXCLUDED.fault, at = EXCLUDED.at
