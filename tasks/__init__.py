"""What happens to one task?

The saga's steps, the calls to agents, validation, and the bodies of the cron jobs. The only
room that talks to agents and sends Celery messages.
"""
