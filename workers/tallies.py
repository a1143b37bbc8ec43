"""Counts and histograms of one process, added to those of all processes every few seconds.

A step only adds to a dictionary; a thread of its own carries the sums to Redis, so that neither a
slow server nor an idle process delays or loses what was measured.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from ledger.errors import Unavailable
from scheduler.step_times import StepTimes

FLUSH_S = 2.0
END = "inf"  # the bucket without an upper bound

TIMES_US = (1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
            2_500_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000, 300_000_000)  # fmt: skip
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """Observations up to each bound (cumulative, the last bound is `inf`) and their sum."""

    buckets: Mapping[str, int]
    total: int


def histogram(counts: Mapping[str, int], series: str, bounds: Sequence[int]) -> Histogram:
    """The histogram `series` out of counters by name. Pure."""
    running, buckets = 0, {}
    for bound in (*map(str, bounds), END):
        running += counts.get(f"{series}:le:{bound}", 0)
        buckets[bound] = running
    return Histogram(buckets=buckets, total=counts.get(f"{series}:sum", 0))


class Tallies:
    """One per process. Thread-safe; what it holds is bounded by the number of names."""

    def __init__(self, shared: StepTimes) -> None:
        self._shared = shared
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._carry, name="tallies", daemon=True)

    def start(self) -> None:
        """Begin to carry the sums to Redis."""
        self._thread.start()

    def close(self) -> None:
        """Carry what is left and stop; what Redis does not take now is lost."""
        self._ended.set()
        self._thread.join()
        self._flush()

    def count(self, name: str, times: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + times

    def observe(self, series: str, value: int, bounds: Sequence[int], times: int = 1) -> None:
        """Put `times` observations of the same value into a histogram."""
        index = bisect_left(bounds, value)
        bucket = f"{series}:le:{bounds[index] if index < len(bounds) else END}"
        total = f"{series}:sum"
        with self._lock:
            counts = self._counts
            counts[bucket] = counts.get(bucket, 0) + times
            counts[total] = counts.get(total, 0) + value * times

    def _carry(self) -> None:
        while not self._ended.wait(FLUSH_S):
            self._flush()

    def _flush(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, {}
        if not counts:
            return
        try:
            self._shared.add(counts)
        except Unavailable as error:
            log.debug("measurements are kept for later", reason=str(error))
            for name, times in counts.items():
                self.count(name, times)
        except Exception as error:
            # The thread must outlive whatever Redis may answer: it only carries measurements.
            log.warning("measurements are lost", reason=repr(error))
