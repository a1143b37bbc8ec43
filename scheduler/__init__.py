"""Who gets it, and when?

Pools, prices, the router, reservations and hooks. The only room that talks to Redis; of the
ledger it knows `model` and `errors` alone.
"""
