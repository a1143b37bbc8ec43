from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ledger.clearing import Clearing
from ledger.proof import entries
from ledger.proof.entries import POSTINGS_MAX, decode, encode, top_up
from ledger.proof.notes import COSIGNER, LOG, Signer, VerifierKey
from ledger.proof.replay import State, TaskSet, Violation
from tests.proof.histories import KEYS, SYSTEM, Ledger, everything


def replay(leaves: list[bytes], state: State | None = None) -> State:
    state = state or State(TaskSet())
    for index in range(state.size, len(leaves)):
        state.apply(index, leaves[index])
    state.require_rest()
    return state


def balances(state: State) -> dict[str, int]:
    return {name: account.balance_ub for name, account in state.accounts.items()}


RULES = st.builds(
    Clearing,
    theta_plus_ub=st.integers(0, 600),
    theta_minus_ub=st.integers(0, 600),
    rho_plus_ppm=st.integers(0, 1_000_000),
    rho_minus_ppm=st.integers(0, 1_000_000),
    grace_s=st.integers(0, 3000),
    settled_min=st.integers(0, 3),
    top_up_ub=st.integers(0, 90),
    top_up_cap_ub=st.integers(90, 300),
)
TAUS = st.integers(0, 1_000_000)
NAMES = st.sampled_from([f"{kind}:{name}" for kind in ("client", "agent") for name in "PQRS"])
AMOUNTS = st.integers(0, 3000)


class Histories(RuleBasedStateMachine):
    """Whatever a ledger does, its log replays to the same balances."""

    @initialize(rule=RULES, tau_ppm=TAUS, older=st.dictionaries(NAMES, AMOUNTS))
    def begin(self, rule: Clearing, tau_ppm: int, older: dict[str, int]) -> None:
        self.ledger = Ledger(rule, tau_ppm)
        self.state = State(TaskSet())
        self.ledger.open_older("system:issuance", None, -sum(older.values()), 0)
        self.ledger.open_older("system:burn", 0, 0, 0)
        self.ledger.open("system:commons", 0)
        for name, amount in older.items():
            self.ledger.open_older(name, 0, amount, amount % 5)

    def can(self, account: str, amount: int = 0) -> bool:
        return account in self.ledger.balances and self.ledger.spendable(account) >= amount

    @rule(account=NAMES, quota=AMOUNTS)
    def opens(self, account: str, quota: int) -> None:
        if account not in self.ledger.balances:
            self.ledger.open(account, quota)
        elif self.ledger.balances[account] >= -quota:
            self.ledger.quota(account, quota)

    @rule(account=NAMES, amount=st.integers(1, 3000))
    def mints(self, account: str, amount: int) -> None:
        if self.can(account):
            self.ledger.mint(account, amount)

    @rule(client=NAMES, agent=st.sampled_from(["agent:P", "agent:Q"]), cost=AMOUNTS)
    def settles(self, client: str, agent: str, cost: int) -> None:
        if client != agent and self.can(client, cost) and self.can(agent):
            self.ledger.settle(client, agent, cost)

    @rule(account=NAMES, amount=st.integers(1, 500))
    def penalises(self, account: str, amount: int) -> None:
        if self.can(account, amount):
            self.ledger.penalty(account, amount)

    @rule(account=NAMES, frozen=st.booleans())
    def freezes(self, account: str, frozen: bool) -> None:
        if self.can(account):
            self.ledger.freeze(account, frozen=frozen)

    @rule(agent=st.sampled_from([None, "agent:P"]))
    def aborts(self, agent: str | None) -> None:
        if agent is None or self.can(agent):
            self.ledger.abort(agent)

    @rule(seconds=st.integers(-5, 3000))
    def waits(self, seconds: int) -> None:
        self.ledger.wait(seconds)

    @rule(change=RULES, tau_ppm=TAUS)
    def changes_the_rule(self, change: Clearing, tau_ppm: int) -> None:
        self.ledger.params(change, tau_ppm)

    @rule(blocked=st.sets(st.sampled_from(["client:P", "client:Q", "client:R"])))
    def closes(self, blocked: set[str]) -> None:
        self.ledger.close([name for name in blocked if self.can(name)])

    @precondition(lambda self: self.state.size)
    @rule()
    def restarts(self) -> None:
        self.state = State.load(self.state.dump(), self.state._tasks)

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "ledger"):
            replay(self.ledger.leaves, self.state)
            assert balances(self.state) == self.ledger.balances
            assert sum(self.ledger.balances.values()) == 0
            assert self.state.balances_sha256() == self.ledger.sha256()
            counts = {name: found.settled for name, found in self.state.accounts.items()}
            assert counts == self.ledger.counts


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_many_accounts_are_cleared_in_several_leaves() -> None:
    ledger = Ledger(
        Clearing(theta_plus_ub=0, rho_plus_ppm=500_000, top_up_ub=3, top_up_cap_ub=3000)
    )
    ledger.open_system()
    clients = [f"client:{number}" for number in range(2 * POSTINGS_MAX)]
    for client in clients:
        ledger.open(client, 0)
        ledger.mint(client, 10)
    ledger.close(clients)
    state = replay(ledger.leaves)
    kinds = [decode(leaf)["type"] for leaf in ledger.leaves[-7:]]
    assert kinds == ["clear"] * 3 + ["top_up"] * 3 + ["epoch_close"]
    assert balances(state) == ledger.balances
    assert ledger.balances["client:0"] == 10 - 5 + 2  # 3000 // 1300


# What nothing in the log contradicts, by type and field: the docstring of `replay` names them.
FREE = {
    ("params", "at"),
    ("quota", "at"),
    ("mint", "at"),
    ("settle", "at"),
    ("abort", "at"),
    ("penalty", "at"),
    ("key", "at"),
    ("open", "at"),  # but for the grace
    ("open", "settled"),  # but for the minimum
    ("open", "quota"),  # but as a floor
    ("quota", "quota"),
    ("params", "params"),  # but for τ and what clearing does with the rest
    ("settle", "task"),
    ("settle", "attempt"),
    ("settle", "size"),
    ("settle", "output_sha256"),
    ("abort", "task"),
    ("abort", "attempt"),
    ("abort", "outcome"),
    ("abort", "agent"),
    ("abort", "f"),
    ("abort", "s"),
    ("penalty", "reason"),
    ("freeze", "at"),
    ("freeze", "account"),
    ("freeze", "frozen"),
    ("freeze", "reason"),
    ("key", "new"),  # the last one
    ("key", "old"),  # the first one
    ("settle", "client"),  # of a task that cost nothing
    ("settle", "agent"),
    ("quota", "account"),
}


ACCOUNTS = ("client:R", "client:P", "agent:A", "agent:N", "agent:Z", "system:burn", "system:x")
OTHERS = {
    "at": ("2026-11-21T03:04:05.679Z", "2031-01-01T00:00:00.000Z"),
    "type": ("mint", "settle", "open", "clear", "top_up"),
    "task": ("00000000-0000-0000-0000-0000ffffffff",),
    "outcome": ("other",),
    "reason": ("other",),
    "verdict": ("other",),
} | {name: ACCOUNTS for name in ("account", "client", "agent")}
OTHERS |= {name: (KEYS[3],) for name in ("old", "new")}
OTHERS |= {name: ("cd" * 32,) for name in ("output_sha256", "balances_sha256")}


def others(field: str, value: Any) -> Iterator[Any]:
    """Other values of the same form."""
    if field in OTHERS:
        yield from OTHERS[field]
    elif value is None:
        yield "0"
    elif type(value) is bool:
        yield not value
    else:  # a count, or an amount as text
        yield from (type(value)(int(value) + step) for step in (1, -1))


def changed(entry: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field with another value, the field's name beside it."""
    for field, value in entry.items():
        found: list[Any] = []
        if field == "postings":
            found = list(other_postings(value))
        elif field == "params":
            found = [value | {name: str(int(text) + 1)} for name, text in value.items()]
        elif field in ("f", "s"):
            found = [["0.5", value[1]], [value[0], "0.5"]]
        else:
            found = list(others(field, value))
        yield from ((field, entry | {field: other}) for other in found)


def other_postings(value: list[list[str]]) -> Iterator[list[list[str]]]:
    for place in range(len(value)):
        yield value[:place] + value[place + 1 :]
        yield [*value, value[place]]
        for other in ("client:R", "client:P", "agent:A", "agent:N", "system:burn", "client:Z"):
            if other != value[place][0]:
                yield [*value[:place], [other, value[place][1]], *value[place + 1 :]]
        for step in (1, -1):
            moved = copy.deepcopy(value)
            moved[place][1] = str(int(moved[place][1]) + step)
            yield moved
            moved = copy.deepcopy(moved)
            moved[place - 1][1] = str(int(moved[place - 1][1]) - step)
            yield moved  # still sums to zero


def verdict(leaves: list[bytes], right: str) -> str:
    try:
        return "unseen" if replay(leaves).balances_sha256() == right else "seen"
    except Violation:
        return "refused"


def test_a_changed_field_is_refused_or_shows_unless_nothing_can_tell() -> None:
    leaves = everything().leaves
    right = replay(leaves).balances_sha256()
    unseen = set()
    kinds = set()
    for index, leaf in enumerate(leaves):
        entry = decode(leaf)
        kinds.add(entry["type"])
        for field, other in changed(entry):
            changed_leaf = encode(other)
            if changed_leaf == leaf:
                continue
            found = verdict([*leaves[:index], changed_leaf, *leaves[index + 1 :]], right)
            if found == "unseen":
                unseen.add((entry["type"], field))
    assert unseen == FREE
    assert len(kinds) == 12


def test_a_leaf_twice_or_left_out_or_moved_is_refused_or_shows() -> None:
    leaves = everything().leaves
    right = replay(leaves).balances_sha256()
    free = {"abort", "params", "quota", "freeze"}  # they may be said again, or have changed nothing
    for index, leaf in enumerate(leaves):
        kind = decode(leaf)["type"]
        if kind not in free:
            assert verdict([*leaves[:index], leaf, *leaves[index:]], right) != "unseen", kind
    moving = {"mint", "settle", "penalty", "clear", "top_up", "epoch_close", "open"}
    for index, leaf in enumerate(leaves):
        entry = decode(leaf)
        if entry["type"] in moving and entry.get("postings") != []:
            assert verdict(leaves[:index] + leaves[index + 1 :], right) != "unseen", entry


def small() -> Ledger:
    ledger = Ledger(Clearing(theta_plus_ub=500, rho_plus_ppm=20_000, top_up_ub=9, top_up_cap_ub=9))
    ledger.open_system()
    ledger.open("client:R", 0)
    ledger.open("agent:A", 0)
    ledger.mint("client:R", 1000)
    return ledger


def reason(ledger: Ledger) -> str:
    with pytest.raises(Violation) as refused:
        replay(ledger.leaves)
    assert refused.value.index == len(ledger.leaves) - 1
    assert str(refused.value).startswith(f"leaf {refused.value.index}: ")
    return refused.value.reason


def test_a_task_is_settled_once() -> None:
    ledger = small()
    ledger.settle("client:R", "agent:A", 10)
    ledger.settle("client:R", "agent:A", 10, task="00000000-0000-0000-0000-000000000001")
    assert reason(ledger) == "task 00000000-0000-0000-0000-000000000001 is settled twice"


def test_nobody_goes_below_the_quota() -> None:
    ledger = small()
    ledger.settle("client:R", "agent:A", 1001)
    assert reason(ledger) == "client:R stands at -1, below its quota of 0"


def test_a_wrong_burn_is_named() -> None:
    ledger = small()
    wrong = [("client:R", -100), ("agent:A", 100)]
    ledger.settle("client:R", "agent:A", 100, postings=wrong)
    assert "['system:burn', '1']" in reason(ledger)


def test_whoever_is_due_is_cleared() -> None:
    ledger = small()
    ledger.dues = dict  # type: ignore[method-assign]
    ledger.close([])
    assert reason(ledger) == "client:R is due and was not cleared"


def test_a_wrong_amount_of_clearing_is_named() -> None:
    ledger = small()
    ledger.dues = lambda: {"client:R": 9}  # type: ignore[method-assign]
    ledger.close([])
    del ledger.leaves[-1]
    assert reason(ledger) == ("clearing states ['client:R', '-9'] where ['client:R', '-10'] is due")


def test_a_wrong_hash_of_balances_is_named() -> None:
    ledger = small()
    right = ledger.sha256
    ledger.sha256 = lambda: "0" * 64  # type: ignore[method-assign]
    ledger.close([])
    assert reason(ledger) == f"balances_sha256 is {right()}, not {'0' * 64}"


@pytest.mark.parametrize("top_up_ub", [8, 10])
def test_a_top_up_is_the_stated_one(top_up_ub: int) -> None:
    """Too little shows when the epoch is closed, too much at once."""
    ledger = small()
    ledger.rule = replace(ledger.rule, top_up_ub=top_up_ub, top_up_cap_ub=100)
    ledger.close(["client:R"])
    if top_up_ub == 8:
        assert reason(ledger) == "1 clients were topped up by 8 each"
    else:
        del ledger.leaves[-1]
        assert reason(ledger) == "a top-up of 10: 9 is the most"


def test_a_top_up_never_takes() -> None:
    ledger = small()
    ledger.leaves.append(top_up(**ledger.head, postings=[("client:R", -5), ("system:commons", 5)]))
    ledger.rule = Clearing()
    ledger.leaves[0] = Ledger(replace(Clearing(), top_up_ub=9, top_up_cap_ub=9)).leaves[0]
    assert reason(ledger) == "a top-up of -5: 9 is the most"


def test_nothing_comes_between_the_leaves_of_a_close() -> None:
    ledger = small()
    ledger.close([])
    del ledger.leaves[-1]
    ledger.epoch = 1
    ledger.mint("client:R", 1)
    assert reason(ledger) == "mint while epoch 1 is being closed"


def test_no_checkpoint_stands_within_a_close_or_a_genesis() -> None:
    ledger = small()
    ledger.close([])
    state = State(TaskSet())
    for index, leaf in enumerate(ledger.leaves[:-1]):
        state.apply(index, leaf)
    with pytest.raises(Violation, match="epoch 1 is half closed"):
        state.dump()
    ledger = Ledger(Clearing())
    ledger.open_older("client:R", 0, 5, 0)
    with pytest.raises(Violation, match="sum to 5, not to 0"):
        replay(ledger.leaves)


def test_credit_of_before_comes_at_the_beginning_only() -> None:
    ledger = small()
    ledger.open_older("client:Z", 0, 5, 0)
    assert reason(ledger) == "client:Z is opened with a balance after the log has begun"


@pytest.mark.parametrize(
    ("account", "quota", "why"),
    [
        ("client:R", 0, "client:R is open already"),
        ("client:Z", None, "client:Z has no quota"),
        ("system:other", 0, "system:other with quota 0 is no account of the system"),
    ],
)
def test_accounts_are_opened_once_as_what_they_are(account: str, quota: int, why: str) -> None:
    ledger = small()
    ledger.open(account, quota)
    assert reason(ledger) == why


def test_the_first_leaf_states_the_rules() -> None:
    with pytest.raises(Violation, match="leaf 0: the first leaf is open, not params"):
        replay(small().leaves[1:])


def test_leaves_come_in_order() -> None:
    with pytest.raises(Violation, match="leaf 1: leaf 0 comes next"):
        State(TaskSet()).apply(1, small().leaves[0])


def test_bytes_that_are_no_leaf_are_a_violation_with_the_field() -> None:
    with pytest.raises(Violation, match="leaf 0: type: no leaf of type 'x' has 1 fields"):
        State(TaskSet()).apply(0, b'{"type":"x"}')


@pytest.mark.parametrize(
    ("name", "text"), [("tau_ppm", "1000001"), ("rho_plus_ppm", "1000001"), ("grace_s", "x")]
)
def test_rules_are_within_bounds(name: str, text: str) -> None:
    entry = decode(small().leaves[0])
    entry["params"][name] = text
    with pytest.raises(Violation, match=name):
        State(TaskSet()).apply(0, encode(entry))
    del entry["params"][name]
    with pytest.raises(Violation, match=name):
        State(TaskSet()).apply(0, encode(entry))


@pytest.mark.parametrize("account", sorted(SYSTEM))
def test_the_systems_accounts_keep_their_quota(account: str) -> None:
    ledger = small()
    ledger.quota(account, 5)
    assert reason(ledger) == f"the quota of {account} never changes"


Step = Callable[[Ledger], None]


def paid(client: str, agent: str, *postings: tuple[str, int]) -> Step:
    """A settlement with these postings, whatever they do to the balances."""
    return lambda ledger: ledger.leaves.append(
        entries.settle(
            **ledger.head,
            task="00000000-0000-0000-0000-00000000000f",
            attempt=1,
            client=client,
            agent=agent,
            size=1,
            output_sha256="ab" * 32,
            postings=postings,
        )
    )


def minted(account: str, *postings: tuple[str, int]) -> Step:
    return lambda ledger: ledger.leaves.append(
        entries.mint(**ledger.head, account=account, postings=postings)
    )


def penalised(*postings: tuple[str, int]) -> Step:
    return lambda ledger: ledger.leaves.append(
        entries.penalty(**ledger.head, reason="x", postings=postings)
    )


R, A, BURN, COMMONS, ISSUANCE = (
    "client:R",
    "agent:A",
    "system:burn",
    "system:commons",
    "system:issuance",
)


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (paid(R, A, (R, 100), (A, -99), (BURN, -1)), "the postings of a settlement of -100"),
        (paid(R, A, (R, 100), (A, -100)), "the postings of a settlement of -100"),
        (paid(A, A), "agent:A cannot pay agent:A"),
        (paid(ISSUANCE, A), "system:issuance cannot pay agent:A"),
        (paid(A, R), "agent:A cannot pay client:R"),
        (paid(R, "agent:Z"), "agent:Z is not open"),
        (paid("client:Z", A), "client:Z is not open"),
        (minted(R, (R, -10), (ISSUANCE, 10)), "a mint moves credit"),
        (minted(R, (R, 10), (COMMONS, -10)), "system:commons stands at -10"),
        (minted(A, (R, 10), (ISSUANCE, -10)), "a mint moves credit"),
        (penalised((ISSUANCE, -10), (COMMONS, 10)), "a penalty moves credit"),
        (penalised((R, -10), (A, 10)), "a penalty moves credit"),
        (penalised((R, -10), (A, 5), (COMMONS, 5)), "a penalty moves credit"),
        (lambda ledger: ledger.freeze(BURN, frozen=True), "system:burn is the system's"),
        (lambda ledger: ledger.freeze("agent:Z", frozen=True), "agent:Z is not open"),
        (lambda ledger: ledger.abort(R), "client:R is no agent"),
        (lambda ledger: ledger.abort("agent:Z"), "agent:Z is not open"),
        (lambda ledger: ledger.key(KEYS[1], KEYS[1]), "is the old one"),
    ],
)
def test_credit_moves_as_its_type_says(step: Step, why: str) -> None:
    ledger = small()
    step(ledger)
    assert why in reason(ledger)


def test_a_quota_covers_the_debt() -> None:
    ledger = small()
    ledger.quota(A, 50)
    ledger.penalty(A, 50)
    ledger.quota(A, 49)
    assert reason(ledger) == "agent:A stands at -50, below its quota of 49"


def test_the_balances_of_the_beginning_are_within_the_quotas_and_sum_to_zero() -> None:
    ledger = Ledger(Clearing())
    ledger.open_older(R, 5, -6, 0)
    assert reason(ledger) == "client:R stands at -6, below its quota of 5"
    ledger = Ledger(Clearing())
    ledger.open_system()
    ledger.open_older(R, 0, 5, 0)
    ledger.mint(R, 1)
    assert reason(ledger) == "the balances of the beginning sum to 5, not to 0"


def test_a_client_is_topped_up_once() -> None:
    ledger = small()
    ledger.rule = replace(ledger.rule, top_up_cap_ub=100)
    ledger.close(["client:R"])
    del ledger.leaves[-1]
    ledger.epoch = 1
    ledger._top_up([R])
    assert reason(ledger) == "a top-up names clients, each once, by name"


def test_a_restart_forgets_nothing() -> None:
    ledger = small()
    state = State.load(replay(ledger.leaves).dump(), TaskSet())
    ledger.open_older("client:Z", 0, 0, 7)
    with pytest.raises(Violation, match="after the log has begun"):
        replay(ledger.leaves, state)


def key_of(name: str = "log.test/1", kind: int = LOG) -> str:
    return Signer(name=name, kind=kind, seed=bytes([7] * 32)).key.encode()


NO_POINT = VerifierKey(name="log.test/1", kind=LOG, public=bytes([1, *bytes(31)])).encode()


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (KEYS[0], key_of(kind=COSIGNER), "is the key of a witness, not of a log"),
        (key_of(kind=COSIGNER), KEYS[0], "is the key of a witness, not of a log"),
        (KEYS[0], key_of("log.test/2"), "is the key of another log than log.test/1"),
        (key_of("log.test/2"), KEYS[0], "is the key of another log than log.test/2"),
        (KEYS[0], KEYS[1].replace(KEYS[1].split("+")[1], "00000000"), "key id '00000000' is not"),
        (KEYS[0], NO_POINT, "of small order"),
    ],
)
def test_a_log_changes_to_a_key_of_its_own(old: str, new: str, why: str) -> None:
    ledger = small()
    ledger.key(old, new)
    assert why in reason(ledger)
