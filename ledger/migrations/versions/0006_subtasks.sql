-- Subtasks: an agent pays for a part of its task from its own account (row M23) ---------------------

-- A task has a client, or it is a part of a parent that an agent was working on.
ALTER TABLE task
    ALTER client DROP NOT NULL,
    ADD COLUMN parent uuid REFERENCES task,
    ADD COLUMN parent_attempt integer,
    ADD COLUMN chain text[],
    ADD COLUMN budget_ub bigint CHECK (budget_ub >= 0),
    ADD COLUMN payer text NOT NULL GENERATED ALWAYS AS
        (coalesce('client:' || client, 'agent:' || chain[cardinality(chain)])) STORED,
    ADD CONSTRAINT task_client_or_parent CHECK (
        num_nulls(parent, parent_attempt, chain, budget_ub) = CASE WHEN client IS NULL THEN 0 ELSE 4 END),
    ADD CONSTRAINT task_depth CHECK (cardinality(chain) BETWEEN 1 AND 4),
    DROP CONSTRAINT task_client_idempotency_key_key,
    ADD CONSTRAINT task_payer_idempotency_key_key UNIQUE (payer, idempotency_key),
    DROP CONSTRAINT task_wait_check,
    ADD CONSTRAINT task_wait_check CHECK (wait IN
        ('dispatch', 'attempt', 'capacity', 'credit', 'no_agent', 'cooldown', 'lane', 'budget'));
CREATE INDEX task_part ON task (parent, parent_attempt) WHERE parent IS NOT NULL;
CREATE INDEX task_part_open ON task (parent) WHERE parent IS NOT NULL AND state = 'INIT';
