"""Bodies of requests: counted while they are read, decoded strictly, never on the event loop."""

from __future__ import annotations

from collections.abc import Callable
from email.message import Message as Headers
from typing import TypeVar

from anyio import to_thread
from fastapi import Request
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledger.errors import BadInput
from tasks.jsontext import parse
from workers.gateway.problems import Refused, bad_input

BODY_MAX_BYTES = 4 << 20

T = TypeVar("T")
Model = TypeVar("Model", bound=BaseModel)


class BodyLimit:
    """ASGI middleware: refuses a body beyond `BODY_MAX_BYTES` with 413, whoever reads it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count what `receive` hands over."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        count = 0

        async def counted() -> Message:
            nonlocal count
            message = await receive()
            count += len(message.get("body", b""))
            if count > BODY_MAX_BYTES:
                raise Refused(
                    413,
                    "body",
                    f"it is longer than {BODY_MAX_BYTES} bytes",
                    "send fewer tasks at a time, or references to the data",
                )
            return message

        await self._app(scope, counted, send)


async def read(request: Request, decode: Callable[[bytes], T]) -> T:
    """The body, decoded in a thread. Raises Refused when it is not declared as JSON."""
    declared = Headers()
    declared["content-type"] = request.headers.get("content-type", "")
    if declared.get_content_type() != "application/json":
        # Also keeps web pages out: a browser asks us first before it sends this type.
        raise Refused(415, "Content-Type", "it is not application/json", "send JSON and declare it")
    return await to_thread.run_sync(decode, await request.body())


def decode_one_or_many(
    text: bytes, model: type[Model], *, many_max: int
) -> tuple[list[Model], bool]:
    """The objects of a body, and whether it is a list.

    Raises Refused (400) when the body is not plain JSON, BadInput when it does not fit `model`
    or holds no object or more than `many_max`.
    """
    try:
        value = parse(text, field="body")
    except BadInput as error:
        raise Refused(400, error.field, error.reason, error.remedy) from None
    try:
        if not isinstance(value, list):
            return [model.model_validate(value)], False
        if not 1 <= len(value) <= many_max:
            raise BadInput("body", f"it lists {len(value)} objects", f"send 1 to {many_max}")
        return TypeAdapter(list[model]).validate_python(value), True  # type: ignore[valid-type]
    except ValidationError as error:
        raise bad_input(
            error.errors(include_url=False, include_input=False, include_context=False),
            known=list(model.model_fields),
        ) from None
