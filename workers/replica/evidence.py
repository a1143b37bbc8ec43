"""What convicts a log: files that are written once. Beside them a replica signs nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

DIRECTORY: Final = "evidence"
REASON: Final = "reason.txt"
UNFINISHED: Final = ".unfinished-"


class Evidence:
    """The cases below a state directory, each in a directory of its own: `0001-rewritten`.

    As long as one is there the replica refuses to sign; to take it away is a person's decision.
    """

    def __init__(self, state: Path) -> None:
        self._place = state / DIRECTORY

    def cases(self) -> list[Path]:
        """The oldest first."""
        if not self._place.exists():
            return []
        return sorted(p for p in self._place.iterdir() if not p.name.startswith(UNFINISHED))

    def standing(self) -> str | None:
        """Why nothing is signed; None when nothing stands against the log."""
        cases = self.cases()
        if not cases:
            return None
        try:
            return f"{(cases[0] / REASON).read_text().strip()} ({DIRECTORY}/{cases[0].name})"
        except OSError as error:
            return f"{DIRECTORY}/{cases[0].name}: {error.strerror}"

    def has(self, kind: str) -> bool:
        """Whether a case of this kind stands already."""
        return any(case.name.endswith(f"-{kind}") for case in self.cases())

    def keep(self, kind: str, reason: str, files: Mapping[str, bytes]) -> Path:
        """Write a case, whole or not at all, on the disk when this returns."""
        self._place.mkdir(mode=0o700, exist_ok=True)
        _sync(self._place.parent)
        fresh = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self._place))
        for name, data in {REASON: f"{reason}\n".encode(), **files}.items():
            with (fresh / name).open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        _sync(fresh)
        case = self._free(kind)
        fresh.rename(case)
        _sync(self._place)
        return case

    def tidy(self) -> None:
        """Take away what a crash left half written."""
        for path in self._place.glob(f"{UNFINISHED}*"):
            shutil.rmtree(path)

    def _free(self, kind: str) -> Path:
        last = max((int(p.name.partition("-")[0]) for p in self.cases() if _numbered(p)), default=0)
        return self._place / f"{last + 1:04}-{kind}"


def _numbered(path: Path) -> bool:
    return path.name.partition("-")[0].isdecimal()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
