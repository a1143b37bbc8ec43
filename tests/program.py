"""`clearlane` as a process, for tests: what it said, or the process itself while it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

COMMAND = (sys.executable, "-m", "workers.cli")


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@contextmanager
def begun(env: Mapping[str, str], *words: str) -> Iterator[subprocess.Popen[str]]:
    """A command with these settings besides ours; killed at the end of the block."""
    with subprocess.Popen(
        [*COMMAND, *words],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def said(env: Mapping[str, str], *words: str, timeout_s: float = 200) -> Said:
    """What a command says until it ends."""
    with begun(env, *words) as process:
        out, err = process.communicate(timeout=timeout_s)
    return Said(process.returncode, out, err)
