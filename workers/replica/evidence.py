"""What convicts a log: files that are written once. Beside them a replica signs nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ledger.errors import Unavailable

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
        """The oldest first. Raises Unavailable."""
        try:
            found = sorted(self._place.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unavailable(self._place, error) from error
        return [path for path in found if not path.name.startswith(UNFINISHED)]

    def standing(self) -> str | None:
        """Why nothing is signed; None when nothing stands against the log."""
        try:
            cases = self.cases()
        except Unavailable as error:
            return str(error)
        if not cases:
            return None
        try:
            reason = (cases[0] / REASON).read_text("utf-8", "replace").strip()
            return f"{reason} ({DIRECTORY}/{cases[0].name})"
        except OSError as error:
            return f"{DIRECTORY}/{cases[0].name}: {error.strerror}"

    def has(self, kind: str) -> bool:
        """Whether a case of this kind stands already."""
        return any(case.name.endswith(f"-{kind}") for case in self.cases())

    def keep(self, kind: str, reason: str, files: Mapping[str, bytes]) -> Path:
        """Write a case, whole or not at all, on the disk when this returns. Raises Unavailable."""
        try:
            return self._keep(kind, reason, files)
        except OSError as error:
            raise _unavailable(self._place, error) from error

    def _keep(self, kind: str, reason: str, files: Mapping[str, bytes]) -> Path:
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
            shutil.rmtree(path, ignore_errors=True)

    def _free(self, kind: str) -> Path:
        last = max((int(p.name.partition("-")[0]) for p in self.cases() if _numbered(p)), default=0)
        return self._place / f"{last + 1:04}-{kind}"


def _numbered(path: Path) -> bool:
    return path.name.partition("-")[0].isdecimal()


def _unavailable(place: Path, error: OSError) -> Unavailable:
    reason = f"{place}: {error.strerror}"
    return Unavailable(DIRECTORY, reason, "see to it; nothing is signed meanwhile")


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
