"""The sample fleet's work: the outline of a Python source, and the check of such an outline.

An answer can be checked against the source itself, so nobody has to be believed (row M14).
"""

from __future__ import annotations

import ast
from typing import Any

PARTS = ("functions", "classes", "imports")
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def outline(source: str) -> dict[str, list[str]]:
    """What a module defines and imports: `functions`, `classes` and `imports`, each sorted.

    Names are qualified by what encloses them (`Shelf.add`, `outer.inner`) and listed once;
    imports are the top-level modules, without relative ones. Raises SyntaxError or ValueError
    if `source` is not Python.
    """
    found: dict[str, set[str]] = {part: set() for part in PARTS}
    pending: list[tuple[ast.AST, str]] = [(ast.parse(source), "")]
    while pending:
        node, prefix = pending.pop()
        if isinstance(node, DEFINITIONS):
            name = prefix + node.name
            found["classes" if isinstance(node, ast.ClassDef) else "functions"].add(name)
            prefix = f"{name}."
        elif isinstance(node, ast.Import):
            found["imports"].update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found["imports"].add(node.module.partition(".")[0])
        pending.extend((child, prefix) for child in ast.iter_child_nodes(node))
    return {part: sorted(names) for part, names in found.items()}


def verify(payload: Any, output: Any) -> str | None:
    """Why `output` is not the outline of `payload["source"]`, or None if it is.

    The validator `python_outline`. Raises if the payload itself is unusable: then nobody could
    have answered.
    """
    expected = outline(payload["source"])
    if not isinstance(output, dict) or output.keys() != expected.keys():
        return f"is not an object of exactly {', '.join(PARTS)}"
    for part in PARTS:
        fault = _difference(expected[part], output[part])
        if fault:
            return f"{part}: {fault}"
    return None


def _difference(expected: list[str], got: Any) -> str | None:
    if got == expected:
        return None
    if not isinstance(got, list) or not all(isinstance(name, str) for name in got):
        return "is not a list of names"
    for name in expected:
        if name not in got:
            return f"{name} is missing"
    for name in got:
        if name not in expected:
            return f"{name} is not in the source"
    return "is not sorted, or lists a name twice"
