"""The gateway: the HTTP API that clients use and people look at (`python -m workers.gateway`)."""
