-- What the saga's steps need to know of these attempts; those overtaken or ended are left out.
-- fenced: the lane has changed hands since the claim, or its holder has let the lease end.
SELECT t.id, t.attempt, t.client, c.owner, t.family, t.size, t.avoid, t.lane, t.fence,
       l.token > t.fence OR l.until <= %(now)s IS TRUE AS fenced
FROM unnest(CAST(%(ids)s AS uuid[]), CAST(%(attempts)s AS integer[])) AS k (id, attempt)
JOIN task t ON t.id = k.id AND t.attempt = k.attempt AND t.state = 'INIT' AND t.wait = 'attempt'
JOIN client c ON c.id = t.client
JOIN lane l ON l.id = t.lane
WHERE t.ready_at > %(now)s  -- the claim has not ended
  AND (t.expires_at IS NULL OR t.expires_at > %(now)s)
