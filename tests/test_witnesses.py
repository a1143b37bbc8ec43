"""How far the log is final: one verdict, for commands, the doctor and a monitor."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from ledger import checkpoints, epochs, gauges, leaves
from ledger.proof.checkpoint import Checkpoint
from ledger.proof.notes import COSIGNER, LOG, Signature, Signer
from ledger.proof.policy import Policy
from ledger.settle import settle
from tasks.context import Context
from tasks.notary import Notary
from tests.makers import claim, install, settlement, submit
from workers.doctor import witnesses as doctor
from workers.doctor.finding import Finding
from workers.doctor.site import Site
from workers.gateway import readings
from workers.settings import Settings
from workers.witnesses import Verdict, judge

LOG_SIGNER = Signer(name="log.test/1", kind=LOG, seed=bytes([1] * 32))
NAMES = ("r1", "r2", "r3")
SIGNERS = {
    name: Signer(name=f"{name}.test", kind=COSIGNER, seed=bytes([place] * 32))
    for place, name in enumerate(NAMES, 2)
}
TEXT = "".join(
    f"witness {name} {signer.key.encode()} http://127.0.0.1:1\n" for name, signer in SIGNERS.items()
)
TEXT += "group replicas 2 r1 r2 r3\nquorum replicas\n"
POLICY = Policy.parse(TEXT)


class Log:
    """A log of one checkpoint, and witnesses that sign it when they are told to."""

    def __init__(self, engine: Engine, now: datetime) -> None:
        self.engine, self.now = engine, now
        install(engine, now)
        submit(engine, now, 3)
        self.size = self.grown()

    def grown(self) -> int:
        """One settlement more, signed by the log."""
        done = [settlement(key) for key in claim(self.engine, self.now, limit=1)]
        settle(self.engine, done, now=self.now)
        checkpoints.sign(self.engine, lambda: LOG_SIGNER, self.now)
        return leaves.size(self.engine)[0]

    def signs(self, *names: str) -> None:
        for name in names:
            stored = checkpoints.newest(self.engine)
            time_s = int(self.now.timestamp())
            line = SIGNERS[name].sign(stored.note.text, time_s=time_s)
            assert isinstance(line, Signature)
            size = Checkpoint.parse(stored.note.text).size
            checkpoints.cosign(self.engine, size, SIGNERS[name].key, line, self.now)
            checkpoints.tell_witness(self.engine, SIGNERS[name].key, size, "", self.now)
        checkpoints.settle_quorum(self.engine, checkpoints.newest(self.engine), POLICY, self.now)

    def fails(self, name: str, fault: str, *, accuses: bool = False) -> None:
        size = leaves.size(self.engine)[0]
        checkpoints.tell_witness(
            self.engine, SIGNERS[name].key, size, fault, self.now, accuses=accuses
        )

    def verdict(self) -> Verdict:
        return judge(self.engine, POLICY, gauges.log(self.engine))

    def text(self) -> str:
        return self.verdict().text()

    def told(self, after_s: float = 0) -> list[tuple[str, str]]:
        at = self.now + timedelta(seconds=after_s)
        return [(i.level, i.found) for i in doctor.told(self.verdict(), at)]


@pytest.fixture
def log(engine: Engine, now: datetime) -> Log:
    return Log(engine, now)


def test_the_verdict_names_who_lacks_and_why(log: Log) -> None:
    log.fails("r2", "cannot connect")
    log.signs("r1")
    assert log.text() == (
        f"final: 0 of {log.size} leaves; the quorum replicas needs 2 of 3, "
        "lacks r2 (cannot connect), r3 (not asked yet)"
    )
    log.signs("r2")
    assert log.text() == f"final: {log.size} of {log.size} leaves"
    first, second = log.size, log.grown()
    log.signs("r3")
    assert log.text() == (
        f"final: {first} of {second} leaves; the quorum replicas needs 2 of 3, "
        f"lacks r1 (it has signed {first} leaves), r2 (it has signed {first} leaves)"
    )


def test_the_doctor_warns_when_nothing_new_is_final_for_long(log: Log) -> None:
    log.signs("r1")
    log.fails("r2", "no answer within 5 s")
    assert log.told(59) == [("ok", log.text())]
    ((level, words),) = log.told(61)
    assert level == "warn"
    assert words == f"nothing new is final for 61 s; {log.text()}"
    log.signs("r2")
    assert log.told(10_000) == [("ok", log.text())], "a log that rests is no fault"


def test_a_witness_that_accuses_is_a_failure_also_when_others_sign(log: Log) -> None:
    fault = "it answered 422: nothing is signed: leaf 3 was rewritten: it is not the one replayed"
    log.signs("r1", "r3")
    log.fails("r2", fault, accuses=True)
    ((level, words),) = log.told()
    assert level == "fail"
    assert words == f"r2 says the log is not what it has signed: {fault}"
    assert [level for level, _ in log.told(61)] == ["fail"]
    log.signs("r2")
    assert log.told() == [("ok", log.text())]


def test_the_doctor_finds_the_policy_and_says_what_it_lacks(
    log: Log, database_url: str, tmp_path: Path
) -> None:
    def found(**values: object) -> Finding:
        given = {"run": {}, "database_url": database_url, "redis_url": None, "broker_url": None}
        given |= {"settings": Settings(log_policy=None), "home": tmp_path} | values
        (item,) = doctor.witnesses(Site(**given))  # type: ignore[arg-type]
        return item

    file = tmp_path / "policy"
    assert found().level == "skipped"
    running = {"log_policy": str(file)}
    assert (found(run=running).level, str(file) in found(run=running).found) == ("fail", True)
    file.write_text(TEXT)
    log.signs("r1", "r2")
    assert found(run=running).found == found(settings=Settings(log_policy=file)).found == log.text()
    nowhere = "postgresql://u:hidden@127.0.0.1:1/d"
    assert found(run=running, database_url=nowhere).found == "postgresql does not answer"
    assert found(run=running, database_url=None).level == "skipped"


def test_an_empty_log_has_no_age(context: Context) -> None:
    found = {
        family.name: family.samples[0].value for family in readings.log(context, context.engine)
    }
    assert found["clearlane_log_leaves"] == found["clearlane_epoch_open_seconds"] == 0
    assert "clearlane_log_checkpoint_age_seconds" not in found


def test_a_monitor_sees_the_log_its_epochs_and_its_witnesses(
    log: Log, context: Context, now: datetime
) -> None:
    policy: list[Policy | None] = [None]

    def read(after_s: float = 0) -> dict[str, float]:
        at = now.timestamp() + after_s
        seen = Context(
            engine=log.engine,
            reservations=context.reservations,
            lease_margin_s=1.0,
            clock=lambda: at,
            notary=Notary(signer=lambda: LOG_SIGNER, policy=lambda: policy[0]),
        )
        return {
            "/".join(
                [sample.name.removeprefix("clearlane_"), *sample.labels.values()]
            ): sample.value
            for family in readings.log(seen, log.engine)
            for sample in family.samples
        }

    found = read(10)
    assert found.pop("epoch_open_seconds") >= 10
    assert found == {
        "log_leaves": log.size,
        "log_checkpoint_leaves": log.size,
        "log_checkpoint_age_seconds": 10,
        "epoch": 1,
    }, "without a policy nobody says what is final"
    policy[0] = POLICY
    log.signs("r1")
    log.fails("r3", "it answered 422: leaf 3", accuses=True)
    found = read(10)
    assert found["log_pending_leaves"] == found["witness_behind_leaves/r2"] == log.size
    assert found["log_pending_seconds"] == 10
    assert found["witness_behind_leaves/r1"] == found["witness_accuses/r2"] == 0
    assert found["witness_accuses/r3"] == 1
    assert "log_quorum_age_seconds" not in found
    assert "epoch_closed_final" not in found
    log.signs("r2")
    found = read(20)
    assert found["log_pending_leaves"] == found["log_pending_seconds"] == 0
    assert found["log_quorum_age_seconds"] == 20
    epochs.close(log.engine, 1, now)
    assert (read()["epoch"], read()["epoch_closed_final"]) == (2, 0)
    checkpoints.sign(log.engine, lambda: LOG_SIGNER, now)
    log.signs("r1", "r2")
    assert read()["epoch_closed_final"] == 1
    assert gauges.log(log.engine).final == leaves.size(log.engine)[0]
