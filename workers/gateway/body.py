"""Bodies of requests: counted while they are read, decoded strictly, never on the event loop."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from email.message import Message as Declared
from itertools import islice
from typing import Final, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger.errors import BadInput
from ledger.model import Json
from tasks.jsontext import parse
from workers.gateway.problems import Refused, bad_input, path

BODY_MAX_BYTES = 4 << 20
BODY_S = 30.0
HELD_MAX_BYTES = 256 << 20  # of all requests at a time
VALUES_MAX: Final = 100_000
"""Values and keys in one body. What they cost is not their bytes: the interpreter makes an object
of each and looks through all of them again and again, and meanwhile nobody else is answered."""

_VALUE: Final = re.compile(
    rb"""(?:"(?:[^"\\]++|\\.)*+"?|[\[{]|[^\s",:\[\]{}]++)[\s,:\]}]*+""", re.DOTALL
)
"""A key or a value, of an object or a list its beginning. What is no JSON passes in linear time."""

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)


class BodyLimit:
    """ASGI middleware: refuses a body beyond `BODY_MAX_BYTES` with 413, whoever reads it.

    When all of them together would hold too much, the one that asks for more is refused with 429.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what `receive` hands over."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        count = 0
        declared = int(Headers(scope=scope).get("content-length", 0))  # h11 lets nothing else pass

        async def counted() -> Message:
            nonlocal count
            if declared > BODY_MAX_BYTES:  # nobody has to wait for what will be refused
                raise _too_long()
            message = await receive()
            size = len(message.get("body", b""))
            count += size
            self._held += size
            if count > BODY_MAX_BYTES:
                raise _too_long()
            if self._held > HELD_MAX_BYTES:
                raise Refused(
                    429,
                    "body",
                    "too many large requests are being read",
                    "ask again in a second",
                    headers={"Retry-After": "1"},
                )
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._held -= count


def _too_long() -> Refused:
    return Refused(
        413,
        "body",
        f"it is longer than {BODY_MAX_BYTES} bytes",
        "send fewer tasks at a time, or references to the data",
    )


async def read(request: Request, decode: Callable[[bytes], T], turns: CapacityLimiter) -> T:
    """The body, decoded in a thread when it is its turn.

    Raises Refused when it is not declared as JSON (415), does not arrive within `BODY_S` (408), or
    ends early (400).
    """
    declared = Declared()
    declared["content-type"] = request.headers.get("content-type", "")
    if declared.get_content_type() != "application/json":
        # Also keeps web pages out: a browser asks us first before it sends this type.
        raise Refused(415, "Content-Type", "it is not application/json", "send JSON and declare it")
    try:
        async with asyncio.timeout(BODY_S):
            body = await request.body()
    except TimeoutError:
        raise Refused(
            408, "body", f"it did not arrive within {BODY_S:g} s", "send it faster, or less of it"
        ) from None
    except ClientDisconnect:  # for the log: nobody is there to read it
        raise Refused(400, "body", "it ended early", "send all of it") from None
    return await to_thread.run_sync(decode, body, limiter=turns)


def decode_one_or_many(
    text: bytes, model: type[Model], *, many_max: int
) -> tuple[list[Model], bool]:
    """The objects of a body, and whether it is a list.

    Raises Refused when the body is not plain JSON (400) or holds too many values (413), BadInput
    when it does not fit `model` or holds no object or more than `many_max`.
    """
    if holds_more(text, VALUES_MAX):
        raise Refused(
            413,
            "body",
            f"it holds more than {VALUES_MAX} values and keys",
            "send fewer tasks at a time, or long data as one text",
        )
    try:
        value = parse(text, field="body")
    except BadInput as error:
        raise Refused(400, error.field, error.reason, error.remedy) from None
    if not isinstance(value, list):
        return [_fitted(value, model, ())], False
    if not 1 <= len(value) <= many_max:
        raise BadInput("body", f"it lists {len(value)} objects", f"send 1 to {many_max}")
    return [_fitted(item, model, (number,)) for number, item in enumerate(value)], True


def holds_more(text: bytes, values: int) -> bool:
    """Whether a JSON text has more values and keys, counted without making them."""
    return next(islice(_VALUE.finditer(text.lstrip()), values, None), None) is not None


def _fitted(value: Json, model: type[Model], place: tuple[int, ...]) -> Model:
    if isinstance(value, dict):
        for name in value:
            # Before the model looks: it would make an error of each one that it does not know.
            if name not in model.model_fields:
                known = ", ".join(model.model_fields)
                raise BadInput(path((*place, name)), "it is not a known field", f"use {known}")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise bad_input({**first, "loc": (*place, *first["loc"])}) from None
