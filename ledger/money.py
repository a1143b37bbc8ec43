"""Money: integer micro-credits and the one rule that splits a payment.

Pure. 1 B = 1,000,000 µB. Rows M05, M06.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from ledger.errors import BadInput

UB = 1_000_000  # micro-credits in a B
PPM = 1_000_000
PLAIN: Final = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{1,40})?")
AMOUNT_MAX_UB = 9_000_000_000 * UB  # keeps every sum inside a BIGINT and inside 2**53


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Where a payment goes. `burn_ub + agent_ub` is the payment."""

    burn_ub: int
    agent_ub: int


def split(payment_ub: int, tau_ppm: int) -> Split:
    """Burn ⌊τ·p⌋; the rest, with the rounding remainder, goes to the agent."""
    burn_ub = payment_ub * tau_ppm // PPM
    return Split(burn_ub=burn_ub, agent_ub=payment_ub - burn_ub)


def parse_b(field: str, text: str) -> int:
    """Micro-credits of a decimal amount of B such as "2000" or "0.01".

    Raises BadInput naming `field` when it is not a number from 0 to 9 billion with at most six
    decimals.
    """
    if not PLAIN.fullmatch(text):
        raise BadInput(field, f"{text!r} is not a number", 'write an amount of B, as "12.5"')
    amount = Fraction(text) * UB
    if amount.denominator != 1:
        raise BadInput(field, f"{text!r} is finer than a micro-credit", "use six decimals at most")
    if not 0 <= amount <= AMOUNT_MAX_UB:
        raise BadInput(field, f"{text!r} is out of range", "use 0 to 9000000000 B")
    return int(amount)


def show_b(amount_ub: int) -> str:
    """An amount for people, in B with six decimals: 1888.888889."""
    sign = "-" if amount_ub < 0 else ""
    whole, rest = divmod(abs(amount_ub), UB)
    return f"{sign}{whole}.{rest:06d}"
