-- How it went with a witness.
INSERT INTO log_witness (witness, size, fault, accuses, at)
VALUES (%(witness)s, %(size)s, %(fault)s, %(accuses)s, %(now)s)
ON CONFLICT (witness) DO UPDATE
SET size = EXCLUDED.size, fault = EXCLUDED.fault, accuses = EXCLUDED.accuses, at = EXCLUDED.at
