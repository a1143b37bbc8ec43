-- Attempts that ended after an instant, oldest first.
SELECT task, attempt, state, outcome, agent, cost_ub, latency_s, reason,
       f_before, f_after, s_before, s_after, ended_at
FROM attempt WHERE ended_at > %(since)s ORDER BY ended_at, task LIMIT %(limit)s
