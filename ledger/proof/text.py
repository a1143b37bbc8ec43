"""Strict readers of the small things all the formats share: UTF-8, base64, decimal numbers.

Each value has one spelling here, so no byte can change unnoticed: what would not be written
again in the same way is refused.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

from ledger.proof.errors import ProofRefused

NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
NUMBER_MAX: Final = 2**63 - 1
CONTROL: Final = re.compile(r"[\x00-\x09\x0b-\x1f]")


def read_utf8(data: bytes | str, part: str, *, bytes_max: int, first_line: int = 1) -> str:
    """The text. Raises ProofRefused when it is too long or not UTF-8."""
    raw = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
    if len(raw) > bytes_max:
        raise ProofRefused(f"{len(raw)} bytes; at most {bytes_max} are read", part=part)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + raw.count(b"\n", 0, error.start)
        raise ProofRefused("not UTF-8", part=part, line=line) from None


def refuse_control(text: str, part: str, first_line: int = 1) -> None:
    """Raise ProofRefused when there is a control character other than the line's end."""
    found = CONTROL.search(text)
    if found:
        line = first_line + text.count("\n", 0, found.start())
        raise ProofRefused(f"control character U+{ord(found[0]):04X}", part=part, line=line)


def read_base64(text: str, what: str, *, part: str, line: int | None = None) -> bytes:
    """The bytes of standard base64 with its padding, in its one canonical spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ProofRefused(f"{what} is not base64", part=part, line=line) from None
    if show_base64(data) != text:
        raise ProofRefused(f"{what} is base64 with bits left over", part=part, line=line)
    return data


def show_base64(data: bytes) -> str:
    """Standard base64 with its padding."""
    return base64.b64encode(data).decode("ascii")


def read_number(text: str, what: str, *, part: str, line: int) -> int:
    """A decimal number from 0 to 2**63 - 1 without zeros in front."""
    if not NUMBER.fullmatch(text) or int(text) > NUMBER_MAX:
        raise ProofRefused(f"{what} {text[:24]!r} is not a number", part=part, line=line)
    return int(text)
