"""Which processes run?

The Celery app, the dispatcher, the gateway, the CLI, the embedded servers and their
supervisor. The only room that talks to the operating system, to people and to clients.
"""
