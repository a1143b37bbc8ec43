SELECT t.id, t.client, t.payer,
       CASE WHEN t.parent IS NULL THEN c.owner
            ELSE (SELECT a.spec ->> 'owner' FROM agent a WHERE a.id = substr(t.payer, 7))
       END AS payer_owner,
       t.parent, t.parent_attempt, t.chain, t.budget_ub, t.family, t.type, t.size, t.state, t.attempt, t.failures, t.losses,
       t.wait, t.lane, t.batch, t.ready_at, t.avoid, t.submitted_at, t.expires_at, t.ended_at, t.reason,
       r.agent, r.cost_ub, r.output,
       CASE WHEN t.state = 'COMMITTED'
            THEN (SELECT x.leaf FROM ledger_transaction x WHERE x.task = t.id) END AS leaf
FROM task t LEFT JOIN client c ON c.id = t.client LEFT JOIN task_result r ON r.task = t.id
WHERE t.id = ANY(CAST(%(ids)s AS uuid[]))
