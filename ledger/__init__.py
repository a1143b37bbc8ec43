"""What did it cost, and how is it proven?

The only room that talks to PostgreSQL. It imports nothing of ours.
"""
