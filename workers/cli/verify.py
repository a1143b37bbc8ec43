"""`clearlane verify`: check a receipt with nothing but the files and keys that are given."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Final

import click

from ledger.errors import BadInput
from workers.cli import FAILED, say

if TYPE_CHECKING:
    from ledger.proof.notes import VerifierKey
    from ledger.proof.policy import Policy
    from ledger.proof.receipts import Verified

ENTRY_MAX: Final = 65_535 + 1  # bytes, and the end of a line


@click.command()
@click.argument("receipt", type=click.File("rb"))
@click.option(
    "--entry",
    type=click.File("rb"),
    required=True,
    help="The entry, as `log entry` or a line of `log export`.",
)
@click.option("--key", required=True, metavar="VKEY", help="The log's verifier key: `log key`.")
@click.option(
    "--policy", type=click.File("rb"), help="Whose signatures it needs besides the log's."
)
@click.pass_context
def verify(
    ctx: click.Context, receipt: IO[bytes], entry: IO[bytes], key: str, policy: IO[bytes] | None
) -> None:
    """Check offline that a receipt proves an entry to be in the log.

    Reads nothing but what is named here. Exits 0 if it does, 1 if not and says what is wrong, 2 if
    the key, the policy or a file cannot be read.
    """
    from ledger.proof import receipts
    from ledger.proof.errors import ProofRefused

    log_key, wanted = _key(key), None if policy is None else _policy(policy)
    text = _read(receipt, receipts.RECEIPT_BYTES_MAX)
    # A line of an export ends in a newline; an entry never does.
    data = _read(entry, ENTRY_MAX).removesuffix(b"\n")
    try:
        found = receipts.verify(text, data, log_key, wanted)
    except ProofRefused as error:
        say(str(error))
        ctx.exit(FAILED)
    _tell(found, wanted)


def _tell(found: Verified, policy: Policy | None) -> None:
    checkpoint = found.checkpoint
    click.echo(
        f"verified: leaf {found.index} of the {checkpoint.size} leaves of {checkpoint.origin}"
    )
    names = {} if policy is None else {w.key: w.name for w in policy.witnesses}
    for signed in found.witnesses:
        at = datetime.fromtimestamp(signed.time_s or 0, UTC)
        click.echo(f"cosigned: {names[signed.key]} at {at:%Y-%m-%dT%H:%M:%SZ}")
    if policy is None:
        click.echo("signed by the log alone: no policy was given")


def _key(text: str) -> VerifierKey:
    from ledger.proof.errors import ProofRefused
    from ledger.proof.notes import LOG, VerifierKey

    try:
        key = VerifierKey.parse(text)
    except ProofRefused as error:
        raise BadInput("--key", error.reason, "give it as `clearlane log key` prints it") from None
    if key.kind != LOG:
        raise BadInput("--key", f"{key} is the key of a witness", "give the log's")
    return key


def _policy(file: IO[bytes]) -> Policy:
    from ledger.proof.errors import ProofRefused
    from ledger.proof.policy import POLICY_BYTES_MAX, Policy

    try:
        return Policy.parse(_read(file, POLICY_BYTES_MAX))
    except ProofRefused as error:
        raise BadInput("--policy", f"{file.name}: {error}", "correct the file") from None


def _read(file: IO[bytes], bytes_max: int) -> bytes:
    """All of a file; of one that is too long enough to be refused for it."""
    try:
        return file.read(bytes_max + 1)
    except OSError as error:
        raise BadInput(file.name, f"cannot be read: {error.strerror}", "name a file") from None
