-- The key that signs from here on. Only under the settle lock.
INSERT INTO log_key (number, vkey, leaf, at)
SELECT max(number) + 1, %(vkey)s, %(leaf)s, %(now)s FROM log_key
