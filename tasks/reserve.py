"""`saga.reserve`: choose an agent for each task, take capacity and credit, or say why not.

INIT to RESERVED (paper sections 4 and 6; rows M04, M05, M11). A chunk costs two reads of
PostgreSQL, one read of Redis and one pipeline of scripts; only a pool that moved under a plan
costs another round.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from celery import shared_task

from ledger import attempts, snapshots
from ledger.attempts import Waiting
from ledger.model import Agent, AttemptKey, Wait, Work
from ledger.registry import Registry
from scheduler.pool import MT
from scheduler.reservations import GAP_MS, Credit, Taken
from scheduler.router import CAPACITY_MS, CREDIT_MS, Board, NoSeat, Quote, Seat, plan
from scheduler.shortlist import Shortlist
from scheduler.snapshot import decode_snapshot
from scheduler.standing import Standing
from tasks.context import Context, current
from tasks.messages import EXECUTE, RESERVE, received, send
from tasks.patience import patient

ROUNDS_MAX = 4  # plans against moved pools before a task waits instead

_shortlists: WeakKeyDictionary[Context, tuple[Registry, Shortlist]] = WeakKeyDictionary()


@shared_task(name=RESERVE)
def reserve(message: Any) -> None:
    """Reserve a chunk and pass on what got a seat."""
    _reserve(current(), received(RESERVE, message))


@patient
def _reserve(context: Context, keys: Sequence[AttemptKey]) -> None:
    found = attempts.works(context.engine, keys, context.now()) if keys else []
    todo = [work for work in found if not work.fenced]
    seated: list[AttemptKey] = []
    waiting = [_fenced(context, work) for work in found if work.fenced]
    wider = False
    for _ in range(ROUNDS_MAX):
        if not todo:
            break
        taken, refused, held, todo = _round(context, todo, wider=wider)
        seated += taken
        waiting += held
        # Who found no room among a few is planned once more, with others.
        more = [] if wider else [item.work for item in refused if item.unseen]
        waiting += [
            Waiting(item.work.key, item.wait, item.not_before_ms)
            for item in refused
            if wider or not item.unseen
        ]
        todo += more
        wider = wider or bool(more)
    waiting += [Waiting(work.key, Wait.CAPACITY, context.now_ms() + CAPACITY_MS) for work in todo]
    if waiting:
        seated += _put_back(context, waiting)
    send(EXECUTE, seated)


def _fenced(context: Context, work: Work) -> Waiting:
    """Its lane has changed hands: it waits for the dispatcher, who knows when the lane is open."""
    return Waiting(work.key, Wait.LANE, context.now_ms())


def _paced(context: Context, work: Work) -> Waiting:
    """Its lane was told to slow down: it waits for its turn, which the dispatcher gives."""
    return Waiting(work.key, Wait.COOLDOWN, context.now_ms() + GAP_MS)


def _unpaid(context: Context, work: Work) -> Waiting:
    """Its parent's budget went elsewhere: it comes back only if another subtask fails."""
    return Waiting(work.key, Wait.BUDGET, context.now_ms() + CREDIT_MS)


def _put_back(context: Context, waiting: Sequence[Waiting]) -> list[AttemptKey]:
    """Let them wait, but not those that an earlier copy of this message has seated already."""
    sagas = context.reservations.read([item.key for item in waiting])
    seated = {saga.work.key for saga in sagas if saga is not None}
    rest = [item for item in waiting if item.key not in seated]
    if rest:
        attempts.put_back(context.engine, rest)
    return list(seated)


def _round(
    context: Context, works: Sequence[Work], *, wider: bool
) -> tuple[list[AttemptKey], list[NoSeat], list[Waiting], list[Work]]:
    """Plan once and take what was planned: (seated, refused, held back by their lane, to be
    planned again)."""
    registry = context.registry(families={work.family for work in works})
    shortlist = _shortlist(context, registry)
    now_ms = context.now_ms()
    names = shortlist.pick(works, now_ms, wider=wider)
    payers = sorted({work.payer for work in works})
    standings, credits = _look(context, registry, payers, now_ms, names)
    board = _board(context, registry, standings, credits, now_ms)
    decisions = plan(works, board, context.rng)
    shortlist.learn(works, board)
    quotes = [item for item in decisions if isinstance(item, Quote)]
    refused = [item for item in decisions if isinstance(item, NoSeat)]
    if not quotes:
        return [], refused, [], []
    answers = context.reservations.reserve(
        quotes,
        spendable_ub=board.balance_ub,
        released_seen_ub={payer: credit.released_ub for payer, credit in credits.items()},
        lease_until_ms={
            family.id: now_ms + int((family.deadline_s + context.lease_margin_s) * 1000)
            for family in registry.families.values()
        },
        now_ms=now_ms,
    )
    said: dict[Taken, list[Work]] = defaultdict(list)
    for quote, answer in zip(quotes, answers, strict=True):
        said[answer].append(quote.work)
    # A duplicate was reserved before: passing it on again is harmless, forgetting it is not.
    seated = [work.key for work in said[Taken.OK] + said[Taken.DUPLICATE]]
    held = [_fenced(context, work) for work in said[Taken.FENCED]]
    held += [_paced(context, work) for work in said[Taken.PACED]]
    held += [_unpaid(context, work) for work in said[Taken.BUDGET]]
    return seated, refused, held, said[Taken.MOVED] + said[Taken.CREDIT]


def _shortlist(context: Context, registry: Registry) -> Shortlist:
    """What this process knows of the agents of this registry; of a new one, nothing yet."""
    known = _shortlists.get(context)
    if known is None or known[0] is not registry:
        made = Shortlist(registry.agents, registry.families, context.rng)
        known = _shortlists[context] = registry, made
    return known[1]


def _board(
    context: Context,
    registry: Registry,
    standings: Mapping[str, Standing],
    credits: Mapping[str, Credit],
    now_ms: int,
) -> Board:
    """Everything the router looks at. What was released has been read before the balances."""
    balance_ub = attempts.spendable_ub(context.engine, list(credits))
    hooks = context.hooks
    return Board(
        seats={
            name: Seat.open(registry.agents[name], pool, judged, registry.routing, now_ms)
            for name, (pool, judged) in standings.items()
        },
        balance_ub=balance_ub,
        spendable_ub={
            payer: balance_ub[payer] - credit.reserved_ub for payer, credit in credits.items()
        },
        families=registry.families,
        routing=registry.routing,
        now_ms=now_ms,
        veto=(
            (
                lambda work, agent, cost_ub: any(
                    hooks.results("before_task", work=work, agent=agent, cost_ub=cost_ub)
                )
            )
            if hooks.has("before_task")
            else None
        ),
        suited=_shortlist(context, registry).suited,
    )


def _look(
    context: Context,
    registry: Registry,
    payers: Sequence[str],
    now_ms: int,
    names: Sequence[str] | None = None,
) -> tuple[dict[str, Standing], dict[str, Credit]]:
    """The pools of these agents, of all unless they are named. When Redis does not have one, or
    has it at another size than the registry says, every such pool is made from its last snapshot
    or resized."""
    names = list(registry.agents) if names is None else names
    found = context.reservations.look(names, payers)
    if not _unfit(registry, names, found[0]):
        return found
    known = snapshots.load(context.engine)
    everybody = list(registry.agents)
    standings, _ = context.reservations.look(everybody)
    context.reservations.seed(
        _unfit(registry, everybody, standings),
        {name: decode_snapshot(state) for name, state in known.items()},
        now_ms,
    )
    return context.reservations.look(names, payers)


def _unfit(
    registry: Registry, names: Sequence[str], standings: Mapping[str, Standing]
) -> list[Agent]:
    """Agents whose pool is missing or has the wrong size."""
    return [
        registry.agents[name]
        for name in names
        if name not in standings or standings[name][0].y_max_mt != registry.agents[name].y_max * MT
    ]
