-- The outcome of settled tasks: result, attempt record and final state.
WITH given AS (
    SELECT * FROM unnest(
        CAST(:ids AS uuid[]), CAST(:attempts AS integer[]), CAST(:agents AS text[]),
        CAST(:costs AS bigint[]), CAST(:latencies AS float8[]), CAST(:reasons AS text[]),
        CAST(:outputs AS text[])
    ) AS g (task, attempt, agent, cost_ub, latency_s, reason, output)
), results AS (
    INSERT INTO task_result (task, agent, attempt, cost_ub, output)
    SELECT task, agent, attempt, cost_ub, CAST(output AS json) FROM given
), recorded AS (
    INSERT INTO attempt (task, attempt, state, outcome, agent, cost_ub, latency_s, reason, ended_at)
    SELECT task, attempt, 'COMMITTED', 'ok', agent, cost_ub, latency_s, reason, :now
    FROM given
)
UPDATE task t SET state = 'COMMITTED', wait = NULL, ended_at = :now, reason = g.reason
FROM given g WHERE t.id = g.task
