"""Query parameters that an endpoint does not know are refused: a misspelt one does nothing."""

from __future__ import annotations

from fastapi import Depends, Request
from fastapi.routing import APIRoute

from ledger.errors import BadInput


def _known_only(request: Request) -> None:
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    known = [field.alias for field in route.dependant.query_params]
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in known:
            remedy = f"use {', '.join(known)}" if known else "leave it out"
            raise BadInput(name, "it is not a known parameter", remedy)
        if name in seen:
            raise BadInput(name, "it is there more than once", "send it once")
        seen.add(name)


Known = Depends(_known_only)
"""A dependency of every router."""
