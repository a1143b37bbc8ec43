"""`clearlane doctor`: what is wrong with an installation, and what to do about it.

A check looks at one thing and changes nothing. It works when nothing runs at all, it cannot hang,
and a check that breaks is a finding like any other. What a check needs is imported when it runs:
with a package missing the others still say what they find.
"""
