SELECT attempt, state, outcome, agent, cost_ub, latency_s, reason,
       f_before, f_after, s_before, s_after, ended_at
FROM attempt WHERE task = CAST(%(id)s AS uuid) ORDER BY attempt
