"""Long lists in pages: `limit` and `after`, and a `Link` to the next page (RFC 8288)."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, TypeVar

from fastapi import Query, Request, Response

T = TypeVar("T")

LIMIT_MAX: Final = 1000
NAME_CHARS_MAX: Final = 100

Limit = Annotated[int, Query(ge=1, le=LIMIT_MAX, description="So many at most.")]
After = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=NAME_CHARS_MAX,
        description="Only what follows this one: the last of the page before, as in its `Link`.",
    ),
]

LINKED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "headers": {
            "Link": {
                "description": 'The next page, as rel="next", if there may be one.',
                "schema": {"type": "string"},
            }
        }
    }
}
"""For the OpenAPI document of a list."""


def page(rows: Sequence[T], name: Callable[[T], str], after: str | None, limit: int) -> list[T]:
    """Of rows in the order of their names, `limit` of those that follow `after`."""
    start = 0 if after is None else bisect_right(rows, after, key=name)
    return list(rows[start : start + limit])


def link(request: Request, response: Response, names: Sequence[str], limit: int) -> None:
    """Say where the next page is, unless this one is the last for certain."""
    if len(names) == limit:
        target = request.url.include_query_params(after=names[-1])
        response.headers["Link"] = f'<{target.path}?{target.query}>; rel="next"'
