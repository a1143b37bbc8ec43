"""The validator of the family `bill`."""

from typing import Any


def verify(payload: Any, output: Any) -> str | None:
    """None if the total is right, else why it is not, in one line."""
    expected = sum(payload["items"])
    if not isinstance(output, dict) or "total" not in output:
        return "has no total"
    if output["total"] != expected:
        return f"total is {output['total']}, not {expected}"
    return None
