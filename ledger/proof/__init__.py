"""How does someone without our server check what we say?

Pure: no database, no clock, no randomness. RFC 6962 hashing and the C2SP formats.
"""
