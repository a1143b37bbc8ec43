-- Record failed attempts, each once, and send their tasks back to INIT or, after the last
-- attempt that the family allows, to quarantine. A rate limit is no failure of the task, nor
-- is a lane that changed hands; a lost
-- attempt blames no agent; a task that loses its worker again and again is taken for poison.
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
    -- A loss counts even when the claim ended before it was noticed: poison is poison.
    SELECT t.id, bool_or(r.attempt = t.attempt) AS current, f.max_attempts,
           max(r.agent) FILTER (WHERE r.attempt = t.attempt) AS agent,
           (array_agg(r.reason ORDER BY r.attempt DESC))[1] AS reason,
           t.failures + count(*) FILTER (
               WHERE r.attempt = t.attempt
                 AND r.outcome NOT IN ('lost', 'unstarted', 'rate_limited', 'fenced')) AS failures,
           t.losses + count(*) FILTER (WHERE r.outcome = 'lost') AS losses
    FROM recorded r
    JOIN task t ON t.id = r.task AND t.state = 'INIT'
    JOIN family f ON f.id = t.family
    WHERE r.attempt = t.attempt OR r.outcome = 'lost'
    GROUP BY t.id, f.id
)
UPDATE task t
SET failures = c.failures,
    losses = c.losses,
    avoid = coalesce(c.agent, t.avoid),
    ready_at = CASE WHEN c.current THEN CAST(%(now)s AS timestamptz) ELSE t.ready_at END,
    state = CASE WHEN c.over THEN 'QUARANTINED' ELSE 'INIT' END,
    wait = CASE WHEN c.over THEN NULL WHEN c.current THEN 'dispatch' ELSE t.wait END,
    ended_at = CASE WHEN c.over THEN CAST(%(now)s AS timestamptz) END,
    reason = CASE WHEN c.over OR c.current THEN c.reason ELSE t.reason END
FROM (
    SELECT *, failures >= max_attempts OR losses >= %(losses_max)s AS over FROM counted
) c
WHERE t.id = c.id
RETURNING t.id, t.state
