"""A peer's process that is told what to do line by line (`bench/peers/wire.py`)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.processes import ROOT, STOP_S


class Remote:
    """One running peer. Ask two at a time by telling both before hearing either."""

    def __init__(self, child: subprocess.Popen[str], log: Path) -> None:
        self.child = child
        self._log = log

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """What it answers. Raises RuntimeError when it failed or died."""
        self.tell(do, **values)
        return self.hear()

    def tell(self, do: str, **values: Any) -> None:
        """Have it do something; `hear` waits for the answer."""
        assert self.child.stdin is not None
        with suppress(BrokenPipeError):  # it has died: `hear` says so, with its log
            self.child.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self.child.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """The answer to the oldest request that was not heard yet."""
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it has ended"}
        if "error" in answer:
            tail = self._log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self._log.stem}: {answer['error']}\n{tail}")
        return answer


@contextmanager
def remote(
    name: str, module: str, *, python: Path, env: Mapping[str, str], place: Path
) -> Iterator[Remote]:
    """`python -m module`, ended with the block."""
    path = place / "log" / f"{name}.log"
    with path.open("ab") as log:
        child = subprocess.Popen(
            (str(python), "-m", module),
            env={**os.environ, **env},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,  # Ctrl-C is for us alone: we end the others in order
        )
    try:
        yield Remote(child, path)
    finally:
        child.terminate()
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
