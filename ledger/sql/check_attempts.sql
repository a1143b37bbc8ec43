-- These failures; `counted` are those that `check_failures` counts.
SELECT CAST(a.task AS text) AS task, a.attempt, a.outcome, a.agent, a.f_before, a.f_after,
       a.s_before, a.s_after, a.ended_at,
       a.ended_at >= (SELECT opened_at FROM epoch WHERE id = 1) AS counted
FROM unnest(CAST(%(ids)s AS uuid[]), CAST(%(attempts)s AS integer[])) AS g (task, attempt)
JOIN attempt a ON a.task = g.task AND a.attempt = g.attempt AND a.state = 'ABORTED'
