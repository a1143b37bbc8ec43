"""The sample fleet's work: outlines, their check, and everything that must not pass it."""

from __future__ import annotations

import json
import random
import symtable
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.samples.garbling import WAYS, garble
from workers.samples.outline import outline, verify

STDLIB = Path(sysconfig.get_path("stdlib"))
MODULES = [
    *("abc", "argparse", "ast", "asyncio/base_events", "base64", "bisect", "cgitb", "cmd"),
    *("codecs", "collections/__init__", "configparser", "contextlib", "copy", "csv", "ctypes/util"),
    *("dataclasses", "difflib", "dis", "email/message", "enum", "fractions", "functools"),
    *(
        "heapq",
        "html/parser",
        "http/client",
        "inspect",
        "json/decoder",
        "keyword",
        "logging/__init__",
    ),
    *("os", "pathlib", "pickle", "platform", "queue", "random", "selectors", "shutil"),
    *("socketserver", "ssl", "statistics", "string", "subprocess", "tarfile", "tempfile"),
    *(
        "textwrap",
        "threading",
        "token",
        "tokenize",
        "traceback",
        "types",
        "typing",
        "unittest/mock",
    ),
    *("urllib/parse", "uuid", "wave", "weakref", "zipfile"),
]
SAMPLE = """
import os.path, sys as system
from collections.abc import Mapping
from . import sibling
from .near import thing

def outer(a=lambda: 0):
    import json
    class Inside:
        async def method(self): ...
    def inner(): ...

class Shelf(dict):
    @property
    def size(self): ...
    @size.setter
    def size(self, value): ...
    class Board: ...

if system:
    def either(): ...
else:
    def either(): ...
"""


def source_of(module: str) -> str:
    path = STDLIB / f"{module}.py"
    if not path.exists():
        pytest.skip(f"this Python has no {module}")
    return path.read_text(encoding="utf-8")


def defined(source: str) -> dict[str, set[str]]:
    """Functions and classes as the compiler's own symbol table has them."""
    found: dict[str, set[str]] = {"functions": set(), "classes": set()}
    pending = [(child, "") for child in symtable.symtable(source, "m", "exec").get_children()]
    while pending:
        table, prefix = pending.pop()
        name = prefix + table.get_name()
        anonymous = table.get_name() in ("lambda", "genexpr", "listcomp", "setcomp", "dictcomp")
        if not anonymous:
            part = "classes" if str(table.get_type()) == "class" else "functions"
            found[part].add(name)
        inside = prefix if anonymous else f"{name}."
        pending.extend((child, inside) for child in table.get_children())
    return found


def test_outline_names_what_is_there() -> None:
    assert outline(SAMPLE) == {
        "functions": [
            *("Shelf.size", "either", "outer", "outer.Inside.method", "outer.inner"),
        ],
        "classes": ["Shelf", "Shelf.Board", "outer.Inside"],
        "imports": ["collections", "json", "os", "sys"],
    }
    assert outline("") == {"functions": [], "classes": [], "imports": []}


@pytest.mark.parametrize("module", MODULES)
def test_outline_of_the_standard_library(module: str) -> None:
    source = source_of(module)
    answer = outline(source)
    found = defined(source)
    assert set(answer["functions"]) == found["functions"]
    assert set(answer["classes"]) == found["classes"]
    payload = {"name": module, "source": source}
    assert verify(payload, answer) is None
    for way in WAYS:
        assert not accepted(payload, way(answer, random.Random(7)))


def accepted(payload: Any, text: str) -> bool:
    """Whether an agent that sends `text` would be paid."""
    try:
        answer = json.loads(text)
    except ValueError:
        return False
    return verify(payload, answer) is None


@given(
    st.lists(st.sampled_from(["def a(): ...", "class B: ...", "import os", "x = 1"])),
    st.integers(0, 10_000),
)
def test_no_garbling_is_ever_right(lines: list[str], seed: int) -> None:
    source = "\n".join(lines)
    text = garble(outline(source), random.Random(seed))
    assert not accepted({"source": source}, text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"functions": ["f"]}, "functions: g is missing"),
        ({"functions": ["f", "g", "h"]}, "functions: h is not in the source"),
        ({"functions": ["g", "f"]}, "functions: is not sorted"),
        ({"functions": ["f", "f", "g"]}, "functions: is not sorted, or lists a name twice"),
        ({"functions": "fg"}, "functions: is not a list of names"),
        ({"functions": ["f", 3]}, "functions: is not a list of names"),
        ({"functions": None}, "functions: is not a list of names"),
        ({"imports": []}, "imports: os is missing"),
        ({"classes": ["C"]}, "classes: C is not in the source"),
        ({"notes": []}, "exactly functions, classes, imports"),
    ],
)
def test_verify_says_what_is_wrong(change: dict[str, Any], words: str) -> None:
    source = "import os\ndef f(): ...\ndef g(): ...\n"
    fault = verify({"source": source}, {**outline(source), **change})
    assert words in (fault or "")


@pytest.mark.parametrize("output", [None, [], "text", 1, {}])
def test_verify_refuses_what_is_no_outline(output: Any) -> None:
    assert verify({"source": ""}, output)


@pytest.mark.parametrize("payload", [{}, {"source": "def"}, {"source": "\0"}, None])
def test_verify_raises_when_nobody_could_have_answered(payload: Any) -> None:
    with pytest.raises((KeyError, TypeError, SyntaxError, ValueError)):
        verify(payload, outline(""))
