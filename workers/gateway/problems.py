"""Every error as RFC 9457 problem details: what was wrong, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from ledger.errors import BadInput, ClearlaneError, Conflict, NotFound, Unavailable
from ledger.model import Json
from tasks.text import printable

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1  # our servers come back within seconds or need a person
DETAIL_CHARS_MAX = 500  # what was sent may be quoted; it must not fill the answer
SCHEMA_REF = "#/components/schemas/Problem"

log = structlog.get_logger()

TITLES: Mapping[int, tuple[str, str]] = {
    400: ("malformed", "The request is not what it claims to be"),
    401: ("unauthorized", "A valid token is needed"),
    403: ("forbidden", "This token may not do this"),
    404: ("not-found", "What was named does not exist"),
    405: ("method-not-allowed", "This path does not take this method"),
    408: ("too-slow", "The request did not arrive in time"),
    409: ("conflict", "What exists forbids this"),
    413: ("too-large", "The request is too large"),
    415: ("unsupported-media-type", "The body is not of a type that is read here"),
    421: ("misdirected", "The request is for another host"),
    422: ("bad-input", "A value was refused"),
    429: ("too-many", "Too many requests"),
    500: ("internal", "A fault of ours"),
    503: ("unavailable", "A server that is needed does not answer"),
}
"""Last part of the type's URN and the title, by status."""


class Problem(BaseModel):
    """RFC 9457 problem details. `detail` is field, reason and remedy in one line."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:problem-type:clearlane:bad-input",
                    "title": "A value was refused",
                    "status": 422,
                    "detail": "size: -1 is not possible; use 1 to 1000000 tokens",
                    "field": "size",
                    "reason": "-1 is not possible",
                    "remedy": "use 1 to 1000000 tokens",
                }
            ]
        }
    )

    type: str = Field(description="URN of the kind of problem; the same for the same status.")
    title: str = Field(description="The kind of problem in words.")
    status: int = Field(description="The HTTP status, repeated.")
    detail: str = Field(description="This occurrence: field, reason, remedy.")
    field: str | None = Field(None, description="What was wrong: a field, parameter or object.")
    reason: str | None = Field(None, description="Why it was refused.")
    remedy: str | None = Field(None, description="What to do about it.")


class Refused(BadInput):
    """A request refused for its form, with the HTTP status that says so."""

    def __init__(
        self,
        status: int,
        field: str,
        reason: str,
        remedy: str,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(field, reason, remedy)
        self.status = status
        self.headers = headers


def problem(
    status: int,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, Json] | None = None,
) -> JSONResponse:
    """The answer for one problem; `members` are added to the standard ones."""
    name, title = TITLES.get(status, ("http", HTTPStatus(status).phrase))
    content = {
        "type": f"urn:problem-type:clearlane:{name}",
        "title": title,
        "status": status,
        "detail": printable(detail, DETAIL_CHARS_MAX),
        **(members or {}),
    }
    found = dict(headers or {})
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        found["Retry-After"] = str(RETRY_AFTER_S)
    return JSONResponse(content, status, found, MEDIA_TYPE)


def answer(error: ClearlaneError) -> JSONResponse:
    """The answer for one of our errors.

    Why a server does not answer is for the log: it may name addresses that are nobody's business.
    """
    if isinstance(error, BadInput):
        members = {"field": error.field, "reason": error.reason, "remedy": error.remedy}
        shown = {name: printable(text, DETAIL_CHARS_MAX) for name, text in members.items()}
        headers = error.headers if isinstance(error, Refused) else None
        return problem(_status(error), str(error), members=shown, headers=headers)
    if isinstance(error, Unavailable):
        log.warning("a server does not answer", reason=printable(str(error), DETAIL_CHARS_MAX))
        reason, remedy = "it does not answer", "repeat the request, with the same idempotency keys"
        members = {"field": error.what, "reason": reason, "remedy": remedy}
        return problem(503, f"{error.what}: {reason}; {remedy}", members=members)
    log.error("a fault of ours", reason=printable(str(error), DETAIL_CHARS_MAX))
    return _fault()


def bad_input(error: Mapping[str, Any]) -> BadInput:
    """One of pydantic's errors in our words."""
    field = path(error["loc"])
    if error["type"] == "missing":
        return BadInput(field, "it is missing", "add it; see /openapi.json")
    reason = error["msg"]
    return BadInput(field, reason[:1].lower() + reason[1:], "correct it; see /openapi.json")


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for problems with these statuses, and for those that any call may meet."""
    return {
        status: {
            "description": TITLES[status][1],
            "content": {MEDIA_TYPE: {"schema": {"$ref": SCHEMA_REF}}},
        }
        for status in sorted({*statuses, 422, 500})
    }


def install(app: FastAPI) -> None:
    """Answer every error of this application with problem details."""
    app.add_exception_handler(ClearlaneError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unforeseen)


def _status(error: ClearlaneError) -> int:
    match error:
        case Refused():
            return error.status
        case NotFound():
            return 404
        case Conflict():
            return 409
        case BadInput():
            return 422
        case Unavailable():
            return 503
        case _:
            return 500


async def _ours(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ClearlaneError)
    return answer(error)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return answer(bad_input(error.errors()[0]))


async def _http(request: Request, error: Exception) -> JSONResponse:
    """What the framework refuses itself: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    headers = dict(error.headers or {})
    words = {
        404: f"path: {path} is not known; see /openapi.json",
        405: f"method: {path} does not take {request.method}; see /openapi.json",
    }
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request))
    return problem(error.status_code, words.get(error.status_code, error.detail), headers=headers)


def _methods(request: Request) -> list[str]:
    """What the path takes, by all of its routes: the framework names those of the first alone."""
    found = {
        method
        for route in iter_route_contexts(request.app.routes)
        if route.path is not None and compile_path(route.path)[0].match(request.scope["path"])
        for method in route.methods or ()
    }
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


async def _unforeseen(_: Request, __: Exception) -> JSONResponse:
    return _fault()


def _fault() -> JSONResponse:
    """A bug of ours: the log has it, the client learns only that it is not theirs."""
    return problem(500, "gateway: this is a fault of ours, not of the request; see its log")


def path(location: Sequence[str | int]) -> str:
    """`[17].size` of ("body", 17, "size")."""
    parts = [part for part in location if part not in {"body", "query", "path", "header"}]
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return text.removeprefix(".") or "body"
