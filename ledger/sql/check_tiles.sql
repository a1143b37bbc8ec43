-- The complete tiles, those of the leaves first, in order.
SELECT level, number, hashes, root FROM log_tile ORDER BY level, number
