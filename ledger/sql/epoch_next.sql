-- Open the epoch after one that was closed just now.
INSERT INTO epoch (id, opened_at, first, transaction, minted_ub, burned_ub)
VALUES (%(epoch)s + 1, %(now)s, %(size)s, %(transaction)s, %(minted_ub)s, %(burned_ub)s)
