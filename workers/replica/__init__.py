"""Who checks the log from outside, and signs only what it has replayed?

A process of its own: own key, own state in a directory, nothing but HTTP between it and the log.
Row M22.
"""
