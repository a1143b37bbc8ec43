"""`/log`: the log as others read it (c2sp.org/tlog-tiles), and receipts. Row M21."""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request, Response

from ledger import checkpoints, leaves
from ledger.checkpoints import PERIOD_S, NotYet
from ledger.errors import BadInput, NotFound
from ledger.proof.errors import ProofRefused
from ledger.proof.tiles import WIDTH, Tile, parse_path
from ledger.tokens import Token
from workers.gateway.access import Caller
from workers.gateway.bulk import Bulk, BulkResponse
from workers.gateway.front import note_tasks
from workers.gateway.parameters import Known
from workers.gateway.problems import Refused, documented
from workers.gateway.service import Here, Service
from workers.gateway.tasks import Name, known_form, visible

BYTES: Final = "application/octet-stream"
JSON: Final = "application/json"
TEXT: Final = "text/plain"  # Starlette adds the charset
# A tile is for whoever holds a token, and a complete one never changes.
COMPLETE: Final = "private, max-age=31536000, immutable"
PARTIAL: Final = "private, no-cache"

router = APIRouter(tags=["log"], dependencies=[Known])


def _is(media_type: str, schema: dict[str, Any], **headers: str) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI document: an answer that is no JSON."""
    described = {
        name.replace("_", "-"): {"description": text, "schema": {"type": "string"}}
        for name, text in headers.items()
    }
    return {200: {"content": {media_type: {"schema": schema}}, "headers": described}}


_TEXT: Final = {"type": "string"}
_BYTES: Final = {"type": "string", "format": "binary"}


@router.get(
    "/log/checkpoint",
    summary="The newest checkpoint",
    response_class=Response,
    responses={**_is(TEXT, _TEXT), **documented(404)},
)
async def checkpoint(here: Here) -> Response:
    """What the log has committed to: a signed note with its name, size and root, and below the
    log's own signature those of its witnesses (c2sp.org/tlog-checkpoint). A second old at most.
    """
    found = await here.checkpoint.get()
    return Response(found.note.encode(), media_type=TEXT)


@router.get(
    "/log/tile/{path:path}",
    summary="A tile of hashes or a bundle of entries",
    response_class=Response,
    responses={
        **_is(
            BYTES,
            _BYTES,
            ETag="Of these bytes; `If-None-Match` with it is answered by 304.",
            Cache_Control="A complete tile never changes.",
        ),
        304: {"description": "It is the one that the client has."},
        **documented(404),
    },
)
async def tile(
    here: Here,
    caller: Caller,
    request: Request,
    path: Annotated[str, Path(description="`0/x001/234`, `0/000.p/5`, `entries/000` …")],
) -> Response:
    """256 hashes of one level of the tree, or the entries of a tile of level 0, each behind its
    length in two bytes (c2sp.org/tlog-tiles). `.p/W` names the first W of a tile that is not
    complete yet.
    """
    unknown = NotFound("path", f"{path!r} is no tile", "see /log/checkpoint for the log's size")
    try:
        wanted = parse_path(f"tile/{path}")
    except ProofRefused:
        raise unknown from None
    # A path has one spelling: with `%30` for `0` it is another, which no cache would know.
    if b"%" in request.scope["raw_path"]:
        raise unknown
    try:
        if isinstance(wanted, Tile):
            data = await here.ledger(leaves.tile, here.engine, wanted)
        else:
            async with here.bulk.turns:
                data = await here.ledger(leaves.bundle, here.engine, wanted)
    except NotFound:
        raise unknown from None
    return _cached(here.bulk, caller, request, data, complete=wanted.width == WIDTH)


@router.get(
    "/v1/tasks/{task}/receipt",
    summary="The receipt of a settled task",
    response_class=Response,
    responses={
        **_is(TEXT, _TEXT),
        **documented(404, 409),
    },
    tags=["tasks"],
)
async def receipt(here: Here, caller: Caller, request: Request, task: Name) -> Response:
    """Proves without any server that the settlement is in the log (c2sp.org/tlog-proof): check it
    with `clearlane verify`. It names the newest checkpoint that the quorum of witnesses has signed,
    without one the newest that holds the settlement.

    409: the task has not been settled, or, with `Retry-After`, no checkpoint holds it yet.
    """
    index = await _leaf(here, caller, request, task)
    try:
        found = await here.ledger(checkpoints.receipt, here.engine, index)
    except NotYet as error:
        reason = f"no checkpoint holds leaf {error.index} yet"
        remedy = f"ask again in {PERIOD_S} s"
        headers = {"Retry-After": str(PERIOD_S)}
        raise Refused(409, "task", reason, remedy, headers=headers) from None
    return Response(found.encode(), media_type=TEXT)


@router.get(
    "/v1/tasks/{task}/entry",
    summary="The entry of a settled task",
    response_class=Response,
    responses={
        **_is(JSON, {"type": "object"}),
        **documented(404, 409),
    },
    tags=["tasks"],
)
async def entry(here: Here, caller: Caller, request: Request, task: Name) -> Response:
    """What the log says of the settlement, and what its receipt is about: who paid whom how much,
    and the hash of the result. Keep the bytes as they are: `clearlane verify --entry` hashes them.

    409: the task has not been settled.
    """
    index = await _leaf(here, caller, request, task)
    return Response(await here.ledger(leaves.entry, here.engine, index), media_type=JSON)


async def _leaf(here: Service, caller: Token, request: Request, task: str) -> int:
    """Where the settlement of a task that the caller may see stands. Raises NotFound, Refused."""
    task = known_form(task)
    note_tasks(request, [task])
    row = await visible(here, caller, task)
    try:
        return await here.ledger(leaves.leaf_of, here.engine, task)
    except NotFound as error:
        reason = f"it is {row['state']}, not settled"
        raise Refused(409, "task", reason, error.remedy) from None
    except BadInput as error:
        raise Refused(409, error.field, error.reason, error.remedy) from None


def _cached(
    bulk: Bulk, caller: Token, request: Request, data: bytes, *, complete: bool
) -> Response:
    tag = f'"{sha256(data).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": COMPLETE if complete else PARTIAL}
    asked = request.headers.get("if-none-match", "")
    known = {part.strip().removeprefix("W/") for part in asked.split(",")}
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    found = BulkResponse(bulk, caller.id, data, BYTES)
    found.headers.update(headers)
    return found
