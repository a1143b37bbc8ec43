"""`/v1/tasks`: submit, look, wait, cancel. Rows M04, C10."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response

from ledger import intake
from ledger.errors import BadInput, NotFound, Unavailable
from ledger.intake import Submission, checked_id
from ledger.model import AttemptKey, TaskState
from ledger.tokens import Role, Token
from tasks.outsource import outsource
from workers.gateway import schemas
from workers.gateway.access import Caller, check_payer, forbidden, own_account, own_client
from workers.gateway.body import decode_one_or_many, read
from workers.gateway.front import note_tasks
from workers.gateway.pages import LINKED, After, Limit, link
from workers.gateway.parameters import Known
from workers.gateway.problems import Refused, documented
from workers.gateway.schemas import Accepted, Task, TaskIn, TaskLine
from workers.gateway.service import Here, Service
from workers.gateway.waiting import unless_gone
from workers.terms import KEY, NAME

MANY_MAX = 1000
WAIT_S_MAX = 60.0
READ_MAX = 16  # results in memory at a time while a long list is looked through
UNKNOWN = {
    "client": "see /v1/accounts",
    "family": "name one that is configured, or have it added",
    "lane": "see /v1/lanes",
    "parent": "name the task and the attempt of the call that you are answering",
}
"""What to do about it, by field: a program has neither the commands nor the configuration."""

router = APIRouter(prefix="/v1/tasks", tags=["tasks"], dependencies=[Known])

Patience = Annotated[
    float,
    Query(
        alias="wait",
        ge=0,
        le=WAIT_S_MAX,
        allow_inf_nan=False,
        description="Answer when the task has ended, at the latest after so many seconds.",
    ),
]
Name = Annotated[str, Path(description="A task's id.")]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=KEY,
        description="For a single task, instead of its field `idempotency_key`.",
    ),
]

_BODY = {
    "required": True,
    "description": f"One task, or a list of at most {MANY_MAX} of one client.",
    "content": {
        "application/json": {
            "schema": {
                "oneOf": [
                    {"$ref": "#/components/schemas/TaskIn"},
                    {
                        "type": "array",
                        "items": {"$ref": "#/components/schemas/TaskIn"},
                        "minItems": 1,
                        "maxItems": MANY_MAX,
                    },
                ]
            }
        }
    },
}


@router.post(
    "",
    status_code=201,
    summary="Submit one task or a list",
    responses={
        200: {"description": "All were known by their idempotency keys; nothing was added."},
        **documented(404, 408, 409, 413, 415),
    },
    openapi_extra={"requestBody": _BODY},
)
async def submit(
    here: Here,
    caller: Caller,
    request: Request,
    response: Response,
    *,
    wait_s: Patience = 0.0,
    key: Key = None,
) -> Task | Accepted | list[Accepted]:
    """Accept all or none, durably, before answering. After a 503 or no answer at all, send the
    same again with the same idempotency keys: nothing is accepted twice.

    An agent submits subtasks while it answers a call: `parent` and `attempt` are those of the
    call, and it pays from its own account. All of a list have the same parent.

    With `wait`, the answer comes when all have ended: a single task whole, with its result; of a
    list the states.
    """
    decode = partial(decode_one_or_many, model=TaskIn, many_max=MANY_MAX)
    items, many = await read(request, decode, here.decoding)
    if key is not None:
        items = [_keyed(items, key, many)]
    now = here.context.now()
    accept = _accept(here, caller, items, now)
    with here.waits.place(caller.id, wait_s):  # before anything is accepted
        try:
            accepted = await here.ledger(accept)
        except NotFound as error:
            raise NotFound(error.field, error.reason, UNKNOWN[error.field]) from None
        note_tasks(request, [item.task for item in accepted])
        if not any(item.created for item in accepted):
            response.status_code = 200
        found = [Accepted(task=item.task, state=TaskState(item.state)) for item in accepted]
        if wait_s:
            return await _awaited(here, request, found, many, wait_s)
    return found if many else found[0]


@router.get("", summary="List tasks, the newest first", responses={**LINKED, **documented(404)})
async def list_tasks(
    here: Here,
    caller: Caller,
    request: Request,
    response: Response,
    *,
    client: Annotated[
        str | None, Query(pattern=NAME, description="Only of this client; of one's own always.")
    ] = None,
    state: Annotated[TaskState | None, Query(description="Only in this state.")] = None,
    after: After = None,
    limit: Limit = 100,
) -> list[TaskLine]:
    """A page of tasks; the next one is in the header `Link`."""
    client = own_client(caller, client)
    if after is not None:
        after = await _mark(here, caller, after)
    rows = await here.ledger(
        intake.task_list,
        here.engine,
        client=client,
        payer=own_account(caller),
        state=state,
        before=after,
        limit=limit,
    )
    found = [TaskLine(**_line(row)) for row in rows]
    link(request, response, [line.task for line in found], limit)
    return found


@router.get("/{task}", summary="One task with its result", responses=documented(404))
async def show(
    here: Here, caller: Caller, request: Request, task: Name, wait_s: Patience = 0.0
) -> Task:
    """State, why it waits, its attempts, what it cost and what came out."""
    task = known_form(task)
    note_tasks(request, [task])
    with here.waits.place(caller.id, wait_s):
        found = await _task(here, caller, task)
        if wait_s and found.state is TaskState.INIT:
            waiting = here.endings.wait([task], partial(_ended, here), wait_s)
            await unless_gone(request, waiting, partial(here.callers.check, caller))
            found = await _task(here, caller, task)
    return found


@router.post("/{task}/cancel", summary="Cancel a task", responses=documented(404, 409))
async def cancel(here: Here, caller: Caller, request: Request, task: Name) -> Task:
    """End a task that has not ended. What an agent is doing for it will not be paid.

    Cancelling twice is no error; a task that ended otherwise is a conflict.
    """
    task = known_form(task)
    note_tasks(request, [task])
    await _task(here, caller, task)
    await here.ledger(intake.cancel, here.engine, task, here.context.now())
    return await _task(here, caller, task)


def known_form(text: str) -> str:
    """A task's id as we write it. Raises BadInput."""
    try:
        return checked_id(text)
    except BadInput as error:
        raise BadInput(error.field, error.reason, "see /v1/tasks") from None


def _keyed(items: Sequence[TaskIn], key: str, many: bool) -> TaskIn:
    """The single task with the key of the header."""
    if many:
        raise BadInput(
            "Idempotency-Key", "it cannot name a list", "give each task an idempotency_key"
        )
    item = items[0]
    if item.idempotency_key not in {None, key}:
        raise BadInput("Idempotency-Key", "the body's idempotency_key differs", "send one of them")
    return item.model_copy(update={"idempotency_key": key})


def _accept(
    here: Service, caller: Token, items: Sequence[TaskIn], now: datetime
) -> Callable[[], list[intake.Accepted]]:
    """What accepts the tasks, for whoever pays. Raises Refused, BadInput."""
    wanted = [_submission(item, now) for item in items]
    if caller.role is Role.AGENT and caller.tenant is not None:
        parent = _parent(items)
        return partial(outsource, here.context, caller.tenant, parent, wanted)
    for item in items:
        if item.parent is not None or item.attempt is not None:
            raise forbidden(
                "parent", f"a {caller.role} has no part in it", "use the token of its agent"
            )
    return partial(intake.submit, here.engine, _client(items, caller), wanted, now)


def _parent(items: Sequence[TaskIn]) -> AttemptKey:
    """The one attempt that all subtasks are parts of."""
    first = items[0]
    for number, item in enumerate(items):
        if item.client is not None:
            raise forbidden("client", "an agent pays for itself alone", "leave it out")
        if item.parent is None or item.attempt is None:
            name = "parent" if item.parent is None else "attempt"
            raise BadInput(name, "it is missing", "name the call that you are answering")
        if (item.parent, item.attempt) != (first.parent, first.attempt):
            raise BadInput(
                f"[{number}].parent", "it is not that of the first", "send one list per parent"
            )
    return AttemptKey(checked_id(str(first.parent)), first.attempt or 0)


def _client(items: Sequence[TaskIn], caller: Token) -> str:
    """The one client of all tasks: a list is accepted or refused as a whole."""
    first = own_client(caller, items[0].client)
    if first is None:
        raise BadInput("client", "it is missing", "name who pays")
    for number, item in enumerate(items):
        if own_client(caller, item.client) != first:
            raise BadInput(
                f"[{number}].client",
                f"{item.client!r} is not {first!r}, who pays for the first task",
                "send one list per client",
            )
    return first


async def _mark(here: Service, caller: Token, after: str) -> str:
    """The task that a page follows: one that the caller could have seen on the page before."""
    unknown = NotFound("after", f"{after!r} is not known", "use the last task of a page")
    try:
        task = checked_id(after)
    except BadInput:
        raise unknown from None
    rows = await here.ledger(intake.task_rows, here.engine, [task])
    if task not in rows:
        raise unknown
    check_payer(caller, rows[task]["payer"], unknown)
    return task


def _submission(item: TaskIn, now: datetime) -> Submission:
    return Submission(
        family=item.family,
        payload=item.payload,
        size=item.size,
        type=item.type,
        lane=item.lane,
        expires_at=None if item.expires_s is None else now + timedelta(seconds=item.expires_s),
        idempotency_key=item.idempotency_key,
    )


async def _awaited(
    here: Service, request: Request, accepted: list[Accepted], many: bool, wait_s: float
) -> Task | Accepted | list[Accepted]:
    """The tasks after waiting for them.

    They are accepted: an outage now is no error, and no more is told to a token that ended now.
    """
    tasks = [item.task for item in accepted]
    caller: Token = request.state.caller
    waiting = here.endings.wait(tasks, partial(_ended, here), wait_s)
    try:
        await unless_gone(request, waiting, partial(here.callers.check, caller))
        if not many:
            return await _task(here, caller, tasks[0])
        states = await _states(here, tasks)
    except (Unavailable, Refused):
        return accepted if many else accepted[0]
    return [Accepted(task=task, state=states[task]) for task in tasks]


async def _ended(here: Service, tasks: Collection[str]) -> list[str]:
    states = await _states(here, list(tasks))
    return [task for task, state in states.items() if state is not TaskState.INIT]


async def _states(here: Service, tasks: Sequence[str]) -> dict[str, TaskState]:
    found: dict[str, TaskState] = {}
    for start in range(0, len(tasks), READ_MAX):
        rows = await here.ledger(intake.task_rows, here.engine, tasks[start : start + READ_MAX])
        found |= {task: TaskState(row["state"]) for task, row in rows.items()}
    return found


async def visible(here: Service, caller: Token, task: str) -> dict[str, Any]:
    """The task's row, if the caller may see it: whether there is another is not told."""
    unknown = NotFound("task", f"{task} is not known", "see /v1/tasks")
    try:
        row = await here.ledger(intake.task_row, here.engine, task)
    except NotFound:
        raise unknown from None
    check_payer(caller, row["payer"], unknown)
    return row


async def _task(here: Service, caller: Token, task: str) -> Task:
    row = await visible(here, caller, task)
    names = schemas.Attempt.model_fields
    return Task(
        **_line(row),
        **{
            name: row[name]
            for name in (
                "lane",
                "failures",
                "ready_at",
                "expires_at",
                "agent",
                "cost_ub",
                "leaf",
                "parent_attempt",
                "budget_ub",
            )
        },
        batch=row["batch"] or None,
        result=row["output"],
        timeline=[
            schemas.Attempt(**{name: item[name] for name in names}) for item in row["attempts"]
        ],
    )


def _line(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a TaskLine from a row of the ledger."""
    same = ("client", "payer", "family", "type", "size", "state", "wait", "submitted_at",
            "ended_at", "reason")  # fmt: skip
    return {
        "task": str(row["id"]),
        "attempts": row["attempt"],
        "parent": None if row["parent"] is None else str(row["parent"]),
        **{name: row[name] for name in same},
    }
