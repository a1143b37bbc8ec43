-- The keys of the log in their order, with the page that announces each.
SELECT k.number, k.vkey, k.leaf, k.at, a.first, a.entries
FROM log_key k LEFT JOIN log_append a ON k.leaf >= a.first AND k.leaf < a.size
ORDER BY k.number
