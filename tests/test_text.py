"""Text of others, made safe for one line."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tasks.text import printable


@given(st.text(), st.integers(1, 50))
def test_printable_is_one_short_line_and_stable(text: str, limit: int) -> None:
    line = printable(text, limit)
    assert len(line) <= limit
    assert line.isprintable()
    assert printable(line, limit) == line


def test_printable_keeps_words_and_shows_a_cut() -> None:
    assert printable("  naïve\tcafé\r\n\x1b[2J\u202e日本 ") == "naïve café [2J 日本"
    assert printable("a" * 300) == "a" * 199 + "…"
    assert printable(" " * 5000 + "late", 10) == "…"
