-- What the saga's steps need to know of these attempts; those overtaken or ended are left out.
-- fenced: the lane has changed hands since the claim, or its holder has let the lease end.
-- budget_ub, of a subtask: what all those of its parent's attempt may cost, 0 when that is over, and
-- outsourced_ub: what those that are paid have cost.
SELECT t.id, t.attempt, t.payer, t.family, t.size, t.avoid, t.lane, t.fence,
       l.token > t.fence OR l.until <= %(now)s IS TRUE AS fenced,
       CASE WHEN t.parent IS NULL THEN c.owner
            ELSE (SELECT a.spec ->> 'owner' FROM agent a WHERE a.id = substr(t.payer, 7)) END AS owner,
       t.parent, t.parent_attempt, t.chain,
       CASE WHEN t.parent IS NOT NULL THEN (
           SELECT CASE WHEN p.state = 'INIT' AND p.wait = 'attempt' AND p.attempt = t.parent_attempt
                       THEN t.budget_ub ELSE 0 END
           FROM task p WHERE p.id = t.parent) END AS budget_ub,
       CASE WHEN t.parent IS NOT NULL THEN (
           SELECT coalesce(sum(r.cost_ub), 0) FROM task s JOIN task_result r ON r.task = s.id
           WHERE s.parent = t.parent AND s.parent_attempt = t.parent_attempt) END AS outsourced_ub
FROM unnest(CAST(%(ids)s AS uuid[]), CAST(%(attempts)s AS integer[])) AS k (id, attempt)
JOIN task t ON t.id = k.id AND t.attempt = k.attempt AND t.state = 'INIT' AND t.wait = 'attempt'
LEFT JOIN client c ON c.id = t.client
JOIN lane l ON l.id = t.lane
WHERE t.ready_at > %(now)s  -- the claim has not ended
  AND (t.expires_at IS NULL OR t.expires_at > %(now)s)
