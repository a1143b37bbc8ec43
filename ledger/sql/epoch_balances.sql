-- Every account, by its bytes.
SELECT id, balance_ub FROM account ORDER BY id COLLATE "C"
