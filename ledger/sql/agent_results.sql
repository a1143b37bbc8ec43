-- How often each agent was tried, with what success, and what it was paid for.
SELECT agent, count(*) AS tries,
       count(*) FILTER (WHERE state = 'COMMITTED') AS passed,
       count(*) FILTER (WHERE state = 'ABORTED') AS failed,
       coalesce(sum(cost_ub) FILTER (WHERE state = 'COMMITTED'), 0) AS cost_ub,
       avg(latency_s) AS latency_s
FROM attempt WHERE agent IS NOT NULL GROUP BY agent ORDER BY agent
