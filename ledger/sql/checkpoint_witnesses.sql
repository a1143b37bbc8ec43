-- Of each witness: the newest checkpoint that it has signed, and how it went last.
SELECT w.witness, s.size AS signed, s.at AS signed_at, a.size AS asked, a.at AS asked_at,
       coalesce(a.fault, '') AS fault, coalesce(a.accuses, false) AS accuses
FROM unnest(CAST(%(witnesses)s AS text[])) AS w (witness)
LEFT JOIN LATERAL (
    SELECT c.size, c.at FROM log_cosignature c WHERE c.witness = w.witness
    ORDER BY c.size DESC LIMIT 1
) s ON true
LEFT JOIN log_witness a ON a.witness = w.witness
