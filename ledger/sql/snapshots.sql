SELECT agent, state FROM pool_snapshot
