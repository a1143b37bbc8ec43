"""Query parameters that an endpoint does not know are refused: a misspelt one does nothing."""

from __future__ import annotations

from fastapi import Depends, Request
from fastapi.routing import APIRoute

from ledger.errors import BadInput


def _known_only(request: Request) -> None:
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    known = [field.alias for field in route.dependant.query_params]
    for name in request.query_params:
        if name not in known:
            remedy = f"use {', '.join(known)}" if known else "leave it out"
            raise BadInput(name, "it is not a known parameter", remedy)


Known = Depends(_known_only)
"""A dependency of every router."""
