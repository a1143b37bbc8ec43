"""Ctrl-C, SIGTERM and a terminal that is closed end things in order, each once."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from workers.interrupts import Interrupts, breaking_off, undisturbed

ENDS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@contextmanager
def ignored(number: signal.Signals) -> Iterator[None]:
    """As nohup starts a program."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", ENDS)
def test_each_breaks_off_once_and_leaves_the_tidying_up_alone(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in ENDS]
    tidied = []

    def work() -> None:
        with breaking_off():
            try:
                signal.raise_signal(number)
            finally:
                for again in ENDS:
                    signal.raise_signal(again)
                    tidied.append(again)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert tidied == ENDS
    assert [signal.getsignal(each) for each in ENDS] == before


@pytest.mark.parametrize("number", ENDS)
def test_what_is_undisturbed_hears_nothing_and_then_is_heard_again(
    number: signal.Signals,
) -> None:
    passed = []

    def work() -> None:
        with breaking_off():
            with undisturbed():
                signal.raise_signal(number)
                passed.append("undisturbed")
            signal.raise_signal(number)
            passed.append("disturbed")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert passed == ["undisturbed"]


def test_a_hang_up_that_was_to_be_ignored_is() -> None:
    with ignored(signal.SIGHUP), breaking_off(), Interrupts() as interrupts:
        signal.raise_signal(signal.SIGHUP)
        assert interrupts.count == 0


def test_a_closed_terminal_says_it_twice_and_counts_once() -> None:
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert interrupts.count == 1
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.count == 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


CTRL_C_AT_AN_IMPORT = """
import signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)

class Finder:
    def find_spec(self, name, *rest):
        if name == "click":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
from workers.cli import main
"""


def test_an_interrupt_while_the_program_is_loaded_ends_it_quietly() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CTRL_C_AT_AN_IMPORT], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
