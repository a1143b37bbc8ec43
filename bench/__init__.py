"""Measured against bare Celery, in one run on one machine: `python -m bench`."""
