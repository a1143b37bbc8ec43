"""Text of others, made safe for one line of a log, a terminal or a table."""

from __future__ import annotations


def printable(text: str, limit: int = 200) -> str:
    """One line of at most `limit` characters, without control or invisible characters.

    Runs of white space and of anything unprintable (escape sequences, line ends, bidirectional
    marks, lone surrogates) become one space; a cut is shown by an ellipsis.
    """
    head = text[: 4 * limit]  # an agent's megabyte is not worth reading to its end
    seen = " ".join("".join(c if c.isprintable() else " " for c in head).split())
    if len(seen) <= limit and len(head) == len(text):
        return seen
    return seen[: limit - 1].rstrip() + "…"
