-- Record failed attempts, each once, and send their tasks back to INIT or, after the last
-- attempt that the family allows, to quarantine. A rate limit is no failure of the task. A lost attempt blames no agent; a task that loses
-- its worker again and again is taken for poison.
WITH given AS (
    SELECT * FROM unnest(
        CAST(%(ids)s AS uuid[]), CAST(%(attempts)s AS integer[]), CAST(%(outcomes)s AS text[]),
        CAST(%(agents)s AS text[]), CAST(%(costs)s AS bigint[]), CAST(%(latencies)s AS float8[]),
        CAST(%(reasons)s AS text[]), CAST(%(f_before)s AS float8[]), CAST(%(f_after)s AS float8[]),
        CAST(%(s_before)s AS float8[]), CAST(%(s_after)s AS float8[])
    ) AS g (task, attempt, outcome, agent, cost_ub, latency_s, reason,
            f_before, f_after, s_before, s_after)
), recorded AS (
    INSERT INTO attempt (task, attempt, state, outcome, agent, cost_ub, latency_s, reason,
                         f_before, f_after, s_before, s_after, ended_at)
    SELECT task, attempt, 'ABORTED', outcome, agent, cost_ub, latency_s, reason,
           f_before, f_after, s_before, s_after, %(now)s
    FROM given
    ON CONFLICT (task, attempt) DO NOTHING
    RETURNING task, attempt, outcome, agent, reason
), counted AS (
    SELECT t.id, r.agent, r.reason,
           t.failures + CAST(r.outcome NOT IN ('lost', 'unstarted', 'rate_limited') AS integer) AS failures,
           t.losses + CAST(r.outcome = 'lost' AS integer) AS losses,
           f.max_attempts
    FROM recorded r
    JOIN task t ON t.id = r.task AND t.attempt = r.attempt AND t.state = 'INIT'
    JOIN family f ON f.id = t.family
)
UPDATE task t
SET failures = c.failures,
    losses = c.losses,
    avoid = coalesce(c.agent, t.avoid),
    ready_at = %(now)s,
    state = CASE WHEN c.over THEN 'QUARANTINED' ELSE 'INIT' END,
    wait = CASE WHEN c.over THEN NULL ELSE 'dispatch' END,
    ended_at = CASE WHEN c.over THEN CAST(%(now)s AS timestamptz) END,
    reason = c.reason
FROM (
    SELECT *, failures >= max_attempts OR losses >= %(losses_max)s AS over FROM counted
) c
WHERE t.id = c.id
RETURNING t.id, t.state
