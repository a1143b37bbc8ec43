"""Clocks of several machines: leases and cooldowns compare them. Pure."""

from __future__ import annotations

from typing import Final

from workers.doctor.finding import Finding, fail, ok, warn

WARN_S: Final = 1.0


def skew(who: str, there_s: float, before_s: float, after_s: float, margin_s: float) -> Finding:
    """The clock of `who` read `there_s` between two readings of ours (seconds of the epoch).

    Beyond `margin_s` a lease can end before its deadline has passed.
    """
    name = f"clock of {who}"
    # What the answer took is no difference: only what lies outside of the interval counts.
    off_s = there_s - after_s if there_s > after_s else min(0.0, there_s - before_s)
    said = f"{abs(off_s):.1f} s {'ahead of' if off_s > 0 else 'behind'} this machine's"
    remedy = "let both machines follow a time server (chrony, systemd-timesyncd)"
    if abs(off_s) >= margin_s:
        more = f"; leases have a margin of {margin_s:g} s (CLEARLANE_LEASE_MARGIN_S)"
        return fail(name, said + more, remedy)
    return warn(name, said, remedy) if abs(off_s) >= WARN_S else ok(name, "within a second of ours")
