"""The log's story: three replicas, two sign what is true, one is shown a lie and convicts it."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from ledger import checkpoints, intake, leaves, tokens
from ledger.checkpoints import Stored
from ledger.intake import Submission
from ledger.money import show_b
from ledger.proof import entries
from ledger.proof.errors import ProofRefused
from ledger.proof.notes import LOG, Signer
from ledger.proof.policy import Policy
from ledger.proof.receipts import verify
from tasks.context import Context
from workers import home as homes
from workers import logkey
from workers.demo.lie import LyingLog, doctored
from workers.demo.stage import COMMAND, DemoFailed, await_true, live_stack
from workers.replica import keys
from workers.replica.evidence import Evidence
from workers.replica.store import FILE, look

TASKS: Final = 300
NAMES: Final = ("one", "two", "three")
WAIT_S: Final = 60.0
LOG_SHOWN_MAX: Final = 500  # characters

T = TypeVar("T")

SOURCE: Final = "import os\n\n\ndef f():\n    pass\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What happens, in words."""

    at_s: float
    words: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """`final`: leaves that two of three have signed. `broken`: what is not as it must be."""

    final: int
    broken: Sequence[str]


Event = Told | Ending


class _Replicas:
    """Three replicas' keys, places and addresses, and the policy that names them."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.log = Signer(name="clearlane.demo/log", kind=LOG, seed=os.urandom(32))
        self.key_file = place / "log.key"
        homes.write_private(self.key_file, self.log.encode() + "\n")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = {name: homes.port(place, name) for name in NAMES}
        lines = []
        for name in NAMES:
            vkey = keys.made(place / f"{name}.key", f"{name}.demo").key.encode()
            lines.append(f"witness {name} {vkey} http://127.0.0.1:{self._ports[name]}")
        lines += [f"group replicas 2 {' '.join(NAMES)}", "quorum replicas", ""]
        self.policy_file = place / "policy"
        self.policy_file.write_text("\n".join(lines))

    @property
    def policy(self) -> Policy:
        return logkey.read_policy(self.policy_file)

    @contextmanager
    def running(self, name: str, url: str) -> Iterator[None]:
        """A replica as a process of its own, that reads the log at `url`."""
        argv = [
            *(*COMMAND, "replica", "run", "--listen", f"127.0.0.1:{self._ports[name]}"),
            *("--key", str(self.place / f"{name}.key"), "--state", str(self.place / name)),
            *("--log", url, "--log-key", self.log.key.encode()),
            *("--token-file", str(self.place / "token")),
        ]
        with (self.place / f"{name}.log").open("wb") as out:
            process = subprocess.Popen(argv, stdout=out, stderr=out)
        self._processes[name] = process
        try:
            yield
        finally:
            process.terminate()
            process.wait()

    def await_true(self, what: str, condition: Callable[[], T | None]) -> T:
        """What the condition gives. Raises DemoFailed when it takes long or a replica ended."""

        def alive() -> T | None:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    said = (self.place / f"{name}.log").read_text(errors="replace")
                    raise DemoFailed(f"replica {name} ended: {said[-LOG_SHOWN_MAX:]}")
            return condition()

        return await_true(what, alive, WAIT_S)

    def signed(self, name: str) -> int:
        """How many leaves this replica has signed."""
        if not (self.place / name / FILE).exists():
            return 0
        signed = look(self.place / name).signed
        return signed.size if signed else 0


def play() -> Generator[Event, None, None]:
    """Run it; yields what happens, then how it ended."""
    started = time.monotonic()
    tell = partial(_told, started)
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="clearlane-log-")))
        three = _Replicas(place)
        files = {
            "CLEARLANE_LOG_KEY_FILE": three.key_file,
            "CLEARLANE_LOG_POLICY": three.policy_file,
        }
        addresses, context = stack.enter_context(live_stack(["--fleet", "sample"], files))
        url = f"{addresses.gateway_url}/log"
        _give_token(context, place / "token")
        stack.enter_context(three.running("one", url))
        yield tell("replica one follows the log. One of three is not enough: nothing is final.")
        _settle(context)
        size, _ = leaves.size(context.engine)
        yield tell(f"{TASKS} tasks have ended; the log has {size} leaves.")
        three.await_true("one has signed", lambda: three.signed("one") >= size)
        alone = checkpoints.newest(context.engine)
        yield tell(f"one has replayed and signed {three.signed('one')}. Final: no.")
        copy, leaf = doctored(list(leaves.entries(context.engine, 0, size)))
        lie = stack.enter_context(LyingLog(copy, three.log))
        stack.enter_context(three.running("three", lie.root))
        yield tell(
            f"three is shown a copy in which leaf {leaf} pays the agent what must burn. "
            "Its hashes are right,\n        and the log's own key has signed it."
        )
        evidence = Evidence(place / "three")
        reason = three.await_true("three refuses", evidence.standing)
        yield tell(f"three refuses: {_told_wrong(leaves.entry(context.engine, leaf), leaf)}")
        yield tell(f"Its evidence, as `clearlane verify` sees it: {_verified(three, leaf)}")
        stack.enter_context(three.running("two", url))
        final = three.await_true("two of three have signed", partial(_final, context, three, size))
        yield tell(f"two has replayed and signed. Final: {final} leaves.")
        broken = _judge(context, three, alone, leaf, size)
        if not reason.startswith(f"leaf {leaf}: "):
            broken.append(f"three refuses for another reason: {reason}")
        yield Ending(final=final, broken=broken)


def _told(started: float, words: str) -> Told:
    return Told(at_s=time.monotonic() - started, words=words)


def _told_wrong(true_entry: bytes, leaf: int) -> str:
    """What the copy says of a payment, and what is right, for people."""
    (_, price), (agent, share), (_, burn) = entries.decode(true_entry)["postings"]
    paid, right = show_b(-int(price)), show_b(int(share))
    return (
        f"leaf {leaf} gives {agent} all {paid} B of its price;\n        {show_b(int(burn))} B must "
        f"burn, and {right} B are the agent's."
    )


def _verified(three: _Replicas, leaf: int) -> str:
    """The first line of the command's verdict on the evidence."""
    (case,) = Evidence(three.place / "three").cases()
    argv = [
        *(*COMMAND, "verify", str(case / f"leaf-{leaf}.receipt")),
        *("--entry", str(case / f"leaf-{leaf}.json"), "--key", three.log.key.encode()),
    ]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode:
        raise DemoFailed(f"the evidence does not verify: {done.stderr.strip()}")
    return done.stdout.splitlines()[0]


def _give_token(context: Context, file: Path) -> None:
    made = tokens.create(
        context.engine,
        role=tokens.Role.REPLICA,
        principal="replicas",
        tenant=None,
        expires_at=None,
        now=context.now(),
    )
    homes.write_private(file, made.text)


def _settle(context: Context) -> None:
    asked = [
        Submission(family="outline", payload={"name": "m", "source": SOURCE}) for _ in range(TASKS)
    ]
    intake.submit(context.engine, "R", asked, context.now())
    await_true("all tasks have ended", lambda: _ended(context), WAIT_S)


def _ended(context: Context) -> bool:
    return all(row["state"] != "INIT" for row in intake.task_counts(context.engine))


def _cosigners(three: _Replicas, stored: Stored) -> set[str]:
    """The replicas whose signatures a checkpoint has, verified."""
    witnesses = {witness.key: witness.name for witness in three.policy.witnesses}
    try:
        signed = stored.note.verified_by(witnesses)
    except ProofRefused:
        return set()
    return {witnesses[found.key] for found in signed}


def _final(context: Context, three: _Replicas, size: int) -> int | None:
    """The size of the newest checkpoint, when it is final and covers `size` leaves."""
    stored = checkpoints.newest(context.engine)
    covers = stored.size >= size
    final = covers and three.policy.satisfied(_cosigners(three, stored))
    return stored.size if final else None


def _judge(context: Context, three: _Replicas, alone: Stored, leaf: int, size: int) -> list[str]:
    """What is not as it must be."""
    stored = checkpoints.newest(context.engine)
    (case,) = Evidence(three.place / "three").cases()
    receipt = (case / f"leaf-{leaf}.receipt").read_text()
    entry = (case / f"leaf-{leaf}.json").read_bytes()
    log_key = three.log.key
    true_receipt = checkpoints.receipt(context.engine, leaf).encode()
    true_entry = leaves.entry(context.engine, leaf)
    checks: dict[str, Callable[[], bool]] = {
        "one signature alone made a checkpoint final": lambda: (
            not three.policy.satisfied(["one"]) and "two" not in _cosigners(three, alone)
        ),
        "three has signed": lambda: (
            three.signed("three") == 0 and "three" not in _cosigners(three, stored)
        ),
        "the evidence is not in a log that our key has signed": lambda: bool(
            verify(receipt, entry, log_key, None)
        ),
        "the true entry is not final": lambda: bool(
            verify(true_receipt, true_entry, log_key, three.policy)
        ),
        "the lie and the truth are the same": lambda: entry != true_entry and leaf < size,
    }
    return [what for what, holds in checks.items() if not _holds(holds)]


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except ProofRefused:
        return False
