"""What a replica answers: c2sp.org/tlog-witness, and how it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ledger.proof.text import show_base64
from tasks.text import printable
from workers.gateway.front import Front
from workers.gateway.problems import RETRY_AFTER_S
from workers.replica.faults import Refused
from workers.replica.follow import Follower
from workers.replica.offer import BODY_MAX_BYTES, Offer
from workers.replica.replica import Replica

BODY_S: Final = 10.0
REQUEST_S: Final = 30.0
SIZE_TYPE: Final = "text/x.tlog.size"
REASON_CHARS_MAX: Final = 290


def create_app(replica: Replica, follower: Follower) -> Front:
    """The application of one replica."""

    async def add_checkpoint(request: Request) -> Response:
        try:
            offer = Offer.parse(await _body(request))
            line = await follower.sign(offer)
        except Refused as error:
            return _refused(error)
        return PlainTextResponse(line)

    async def status(_: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(_status, replica, follower))

    async def ready(_: Request) -> Response:
        standing = await asyncio.to_thread(replica.standing)
        if standing is None:
            return PlainTextResponse("ready\n")
        return PlainTextResponse(f"{printable(standing, REASON_CHARS_MAX)}\n", 503)

    async def alive(_: Request) -> Response:
        return PlainTextResponse("alive\n")

    routes: list[tuple[str, Callable[[Request], Awaitable[Response]], str]] = [
        ("/add-checkpoint", add_checkpoint, "POST"),
        ("/status", status, "GET"),
        ("/readyz", ready, "GET"),
        ("/livez", alive, "GET"),
    ]
    app = Starlette(routes=[Route(path, work, methods=[verb]) for path, work, verb in routes])
    return Front(app, REQUEST_S)


def _status(replica: Replica, follower: Follower) -> dict[str, Any]:
    signed = replica.signed
    standing = replica.standing()
    return {
        "replayed": replica.size,
        "epoch": replica.epoch,
        "signed": signed
        and {"size": signed.size, "root": show_base64(signed.root), "time_s": signed.time_s},
        "refuses": standing,
        "trouble": follower.trouble or None,
    }


async def _body(request: Request) -> bytes:
    """At most as much as a request may have, within its time. Raises Refused."""
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                data += chunk
                if len(data) > BODY_MAX_BYTES:
                    raise Refused(413, f"the body is longer than {BODY_MAX_BYTES} bytes")
    except TimeoutError:
        raise Refused(408, f"the body did not arrive within {BODY_S:g} s") from None
    except ClientDisconnect:
        raise Refused(400, "the body ended early") from None
    return bytes(data)


def _refused(error: Refused) -> Response:
    """One line of reason; for a conflict the size alone, as the protocol has it."""
    if error.status == 409 and error.signed_size is not None:  # noqa: PLR2004
        return Response(f"{error.signed_size}\n", 409, {"Content-Type": SIZE_TYPE})
    headers = {"Retry-After": str(RETRY_AFTER_S)} if error.status == 503 else {}  # noqa: PLR2004
    return PlainTextResponse(
        f"{printable(error.reason, REASON_CHARS_MAX)}\n", error.status, headers
    )
