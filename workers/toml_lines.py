"""Where each key of a TOML document stands: the parser tells values, people need lines."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[^"'=\]])+""")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|' r"'''.*?'{3,5}|" r'"(?:[^"\\]|\\.)*"|' r"'[^']*'", re.DOTALL
)
_SCALAR = re.compile(r"[^,\]}#\n]+")


class Lines:
    """Lines of a document that `tomllib` has accepted; its syntax is not checked again."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._tables: dict[Path, int] = {}  # arrays of tables: index of the last one so far
        self._lines: dict[Path, int] = {}
        self._scan()

    def line(self, path: Path) -> int:
        """Where `path` stands, or the nearest table around it that is written down; else 1.

        Elements of arrays are counted from 0: ("agents", 2, "k").
        """
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def _scan(self) -> None:
        table: Path = ()
        while self._skip_blank() < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Path:
        start = self._at
        is_array = self._text.startswith("[[", start)
        self._at += 2 if is_array else 1
        keys = self._keys()
        self._at += 2 if is_array else 1
        path = self._resolve(keys[:-1]) + keys[-1:]
        if is_array:
            self._tables[path] = self._tables.get(path, -1) + 1
        path = self._resolve(keys)
        self._note(path, start)
        return path

    def _resolve(self, keys: Path) -> Path:
        """The path a header means: through an array of tables it leads into the last one."""
        path: Path = ()
        for key in keys:
            path += (key,)
            if path in self._tables:
                path += (self._tables[path],)
        return path

    def _pair(self, table: Path) -> None:
        start = self._at
        path = table + self._keys()
        self._note(path, start)
        self._at += 1  # the equals sign
        self._value(path)

    def _keys(self) -> Path:
        """A key, dotted or not, quoted or not, as its parts."""
        match = _KEY.match(self._text, self._at)
        raw = match.group() if match else ""
        self._at += len(raw)
        value = tomllib.loads(f"{raw.strip()} = 0")
        keys: Path = ()
        while isinstance(value, dict):
            (key,) = value
            keys += (key,)
            value = value[key]
        return keys

    def _value(self, path: Path) -> None:
        self._skip_blank()
        opening = self._text[self._at]
        if opening == "[":
            self._array(path)
        elif opening == "{":
            self._inline_table(path)
        else:
            pattern = _STRING if opening in "\"'" else _SCALAR
            match = pattern.match(self._text, self._at)
            self._at = match.end() if match else len(self._text)

    def _array(self, path: Path) -> None:
        self._at += 1
        index = 0
        while self._text[self._skip_blank()] != "]":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._note((*path, index), self._at)
            self._value((*path, index))
            index += 1
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while self._text[self._skip_blank()] != "}":
            if self._text[self._at] == ",":
                self._at += 1
            else:
                self._pair(path)
        self._at += 1

    def _skip_blank(self) -> int:
        match = _BLANK.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return self._at

    def _note(self, path: Path, at: int) -> None:
        line = bisect_right(self._starts, at)
        for length in range(1, len(path) + 1):  # a dotted key writes down its tables too
            self._lines.setdefault(path[:length], line)
