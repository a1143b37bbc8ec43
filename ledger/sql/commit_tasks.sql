-- The outcome of settled tasks: result, attempt record and final state. One JSON document
-- instead of an array per column: cheaper to write for the client, and outputs are JSON anyway.
-- `tasks` names the same tasks again: found by it, a task is looked up by its key under every plan,
-- also under one that was made while the table was small.
WITH given AS (
    SELECT * FROM json_to_recordset(CAST(%(rows)s AS json)) AS g (
        task uuid, attempt integer, agent text, cost_ub bigint, latency_s float8, reason text,
        output json
    )
), results AS (
    INSERT INTO task_result (task, agent, attempt, cost_ub, output)
    -- JSON's null is an answer like any other, but comes out of a record as no value at all.
    SELECT task, agent, attempt, cost_ub, coalesce(output, CAST('null' AS json)) FROM given
), recorded AS (
    INSERT INTO attempt (task, attempt, state, outcome, agent, cost_ub, latency_s, reason, ended_at)
    SELECT task, attempt, 'COMMITTED', 'ok', agent, cost_ub, latency_s, reason, %(now)s
    FROM given
)
UPDATE task t SET state = 'COMMITTED', wait = NULL, ended_at = %(now)s, reason = g.reason
FROM given g WHERE t.id = g.task AND t.id = ANY(CAST(%(tasks)s AS uuid[]))
