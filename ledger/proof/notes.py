"""Signed notes (c2sp.org/signed-note) and cosignatures (c2sp.org/tlog-cosignature), Ed25519.

A note is a text, a blank line and signature lines `— name base64(key id ‖ signature)`. Lines of
unknown keys are ignored, as the format demands; a line of a known key that does not verify
refuses the whole note. A key that signed twice is checked twice and counts once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ledger.errors import InvariantBroken
from ledger.proof.errors import ProofRefused
from ledger.proof.text import read_base64, read_utf8, refuse_control, show_base64

LOG: Final = 0x01  # signs the text of the note
COSIGNER: Final = 0x04  # signs the text and the time
KINDS: Final = {LOG: "log", COSIGNER: "witness"}
DASH: Final = "— "
PRIVATE: Final = "PRIVATE+KEY+"
KEY_BYTES: Final = 32
ID_BYTES: Final = 4
TIME_BYTES: Final = 8
TIME_MAX_S: Final = 253_402_300_799  # the end of the year 9999: no calendar here goes further
SIGNATURE_BYTES: Final = 64
NOTE_BYTES_MAX: Final = 1_000_000
SIGNATURES_MAX: Final = 100
KEY_TEXT_MAX: Final = 4_096
KEY_FIELDS: Final = 3
FIELD: Final = 2**255 - 19  # the coordinates of Ed25519 are numbers below it
ORDER_8: Final = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
SMALL: Final = frozenset({0, 1, FIELD - 1, ORDER_8, FIELD - ORDER_8})  # y of points of order 1 to 8


@dataclass(frozen=True, kw_only=True)
class VerifierKey:
    """A public key that is trusted to sign as `name`, for one kind of signature."""

    name: str
    kind: int  # LOG or COSIGNER
    public: bytes  # 32 bytes

    @cached_property
    def key_id(self) -> bytes:
        """Four bytes that tell this key from others of the same name."""
        material = self.name.encode() + b"\n" + bytes([self.kind]) + self.public
        return sha256(material).digest()[:ID_BYTES]

    @cached_property
    def _public(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.public)

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}"

    def encode(self) -> str:
        """`name+hex(key id)+base64(kind ‖ public key)`: a vkey."""
        return f"{self}+{show_base64(bytes([self.kind]) + self.public)}"

    @classmethod
    def parse(cls, text: str, *, part: str = "key", line: int | None = None) -> Self:
        """The key of a vkey. Raises ProofRefused: every character is checked.

        Also for a public key that others hold too: one that has a second spelling, or whose
        signatures anybody can make.
        """
        name, id_hex, kind, public = _parse_key(text, part, line)
        _check_point(public, part, line)
        key = cls(name=name, kind=kind, public=public)
        if key.key_id.hex() != id_hex:
            reason = f"key id {id_hex!r} is not {key.key_id.hex()} of {name!r} and this key"
            raise ProofRefused(reason, part=part, line=line)
        return key

    def verify(self, text: str, signature: bytes, *, part: str, line: int) -> int | None:
        """The time of a cosignature (unix seconds), None for a log's signature.

        Raises ProofRefused unless `signature`, which stood on `line`, is this key's over `text`.
        """
        time_s, rest = _split_time(self, signature, part, line)
        try:
            self._public.verify(rest, _message(text, time_s))
        except InvalidSignature:
            reason = f"the signature of {self} does not fit the text above: one of them was changed"
            raise ProofRefused(reason, part=part, line=line) from None
        return time_s


@dataclass(frozen=True, kw_only=True)
class Signer:
    """A private key. Given, never made here; its seed does not show in a repr."""

    name: str
    kind: int  # LOG or COSIGNER
    seed: bytes = field(repr=False)  # 32 bytes

    @cached_property
    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @cached_property
    def key(self) -> VerifierKey:
        """What others need to verify."""
        public = self._private.public_key().public_bytes_raw()
        return VerifierKey(name=self.name, kind=self.kind, public=public)

    def sign(self, text: str, *, time_s: int | None = None) -> Signature:
        """The signature of a note's text, which ends in a newline.

        `time_s`: unix seconds, for a cosigner; a log's signature has no time.
        """
        if (time_s is not None) != (self.kind == COSIGNER):
            raise InvariantBroken("a cosigner signs a time, a log does not")
        if time_s is not None and not 0 < time_s <= TIME_MAX_S:
            raise InvariantBroken(f"{time_s} is not a time to sign")
        if not text.endswith("\n"):
            raise InvariantBroken("the text of a note ends in a newline")
        refuse_control(text, "note")
        stamp = b"" if time_s is None else time_s.to_bytes(TIME_BYTES, "big")
        data = stamp + self._private.sign(_message(text, time_s))
        return Signature(name=self.name, key_id=self.key.key_id, data=data)

    def encode(self) -> str:
        """`PRIVATE+KEY+name+hex(key id)+base64(kind ‖ seed)`: for a file only its owner reads."""
        return f"{PRIVATE}{self.key}+{show_base64(bytes([self.kind]) + self.seed)}"

    @classmethod
    def parse(cls, text: str, *, part: str = "private key") -> Self:
        """The signer that `encode` wrote. No refusal shows any of the secret."""
        if not text.startswith(PRIVATE):
            raise ProofRefused(f"a private key begins with {PRIVATE}", part=part)
        name, id_hex, kind, seed = _parse_key(text.removeprefix(PRIVATE), part, None)
        signer = cls(name=name, kind=kind, seed=seed)
        if signer.key.key_id.hex() != id_hex:
            raise ProofRefused(f"key id {id_hex!r} is not this key's", part=part)
        return signer


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """One signature line."""

    name: str
    key_id: bytes
    data: bytes

    def encode(self) -> str:
        """The line, with its newline."""
        return f"{DASH}{self.name} {show_base64(self.key_id + self.data)}\n"

    @classmethod
    def parse(cls, text: str, *, part: str = "signature", line: int = 1) -> Self:
        """The signature of a line without its newline."""
        name, space, blob = text.removeprefix(DASH).partition(" ")
        if not text.startswith(DASH) or not space:
            raise ProofRefused("not a line `— name signature`", part=part, line=line)
        _check_name(name, part, line)
        data = read_base64(blob, "the signature", part=part, line=line)
        if len(data) <= ID_BYTES:
            raise ProofRefused("the signature has no bytes", part=part, line=line)
        return cls(name=name, key_id=data[:ID_BYTES], data=data[ID_BYTES:])


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """A key whose signature was verified; `time_s` (unix seconds) of a cosigner, else None."""

    key: VerifierKey
    time_s: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """A text that ends in a newline, and its signatures."""

    text: str
    signatures: tuple[Signature, ...]

    def encode(self) -> str:
        """The note as it is sent and stored."""
        return f"{self.text}\n{''.join(line.encode() for line in self.signatures)}"

    def signed(self, *signatures: Signature) -> Note:
        """The note with these signatures below its own."""
        return replace(self, signatures=self.signatures + signatures)

    @classmethod
    def parse(cls, data: bytes | str, *, part: str = "note", first_line: int = 1) -> Self:
        """The note. `first_line`: where it begins in the text it was taken from."""
        text = read_utf8(data, part, bytes_max=NOTE_BYTES_MAX, first_line=first_line)
        refuse_control(text, part, first_line)
        last_line = first_line + text.count("\n")
        if not text.endswith("\n"):
            raise ProofRefused("the last line has no newline", part=part, line=last_line)
        body, blank, lines = text.rpartition("\n\n")
        if not blank or not lines:
            reason = "no blank line and signature lines at the end"
            raise ProofRefused(reason, part=part, line=last_line - 1)
        body += "\n"
        signatures = lines.split("\n")[:-1]
        if len(signatures) > SIGNATURES_MAX:
            raise ProofRefused(f"more than {SIGNATURES_MAX} signatures", part=part)
        first = first_line + body.count("\n") + 1
        found = [Signature.parse(s, part=part, line=n) for n, s in enumerate(signatures, first)]
        return cls(text=body, signatures=tuple(found))

    def verified_by(
        self, keys: Iterable[VerifierKey], *, part: str = "note", first_line: int = 1
    ) -> tuple[Signed, ...]:
        """The keys that signed, each once; of two cosignatures of a key the later.

        Raises ProofRefused when a signature of one of `keys` does not verify, or none is there.
        """
        known = {(key.name, key.key_id): key for key in keys}
        found: dict[VerifierKey, Signed] = {}
        for line, signature in enumerate(self.signatures, self._first(first_line)):
            key = known.get((signature.name, signature.key_id))
            if key is not None:
                time_s = key.verify(self.text, signature.data, part=part, line=line)
                if key not in found or (time_s or 0) > (found[key].time_s or 0):
                    found[key] = Signed(key=key, time_s=time_s)
        if not found:
            absent = "; ".join(self.absent(key, first_line) for key in known.values())
            raise ProofRefused(absent or "no key is known to verify it", part=part)
        return tuple(found.values())

    def absent(self, key: VerifierKey, first_line: int = 1) -> str:
        """Says that this key has not signed, and which line looks as if it should."""
        reason = f"no signature of {key}"
        for line, signature in enumerate(self.signatures, self._first(first_line)):
            if signature.name == key.name:
                reason += f" (line {line} has this name but key id {signature.key_id.hex()})"
            elif signature.key_id == key.key_id:
                reason += f" (line {line} has this key id but the name {signature.name!r})"
        return reason

    def _first(self, first_line: int) -> int:
        return first_line + self.text.count("\n") + 1


def _message(text: str, time_s: int | None) -> bytes:
    """The bytes that are signed."""
    return (text if time_s is None else f"cosignature/v1\ntime {time_s}\n{text}").encode()


def _split_time(
    key: VerifierKey, signature: bytes, part: str, line: int
) -> tuple[int | None, bytes]:
    stamp_bytes = TIME_BYTES if key.kind == COSIGNER else 0
    if len(signature) != stamp_bytes + SIGNATURE_BYTES:
        wanted = stamp_bytes + SIGNATURE_BYTES
        reason = f"the signature of {key} has {len(signature)} bytes, not {wanted}"
        raise ProofRefused(reason, part=part, line=line)
    if not stamp_bytes:
        return None, signature
    time_s = int.from_bytes(signature[:stamp_bytes], "big")
    if not 0 < time_s <= TIME_MAX_S:
        reason = f"{time_s} is not the time of a cosignature: seconds, to the year 9999"
        raise ProofRefused(reason, part=part, line=line)
    return time_s, signature[stamp_bytes:]


def _check_name(name: str, part: str, line: int | None) -> None:
    """A name has one spelling: no space of any kind, no plus, no control character."""
    if not name or "+" in name or any(letter.isspace() or letter < " " for letter in name):
        reason = f"key name {name[:80]!r} is empty or has a space or a plus"
        raise ProofRefused(reason, part=part, line=line)


def _check_point(public: bytes, part: str, line: int | None) -> None:
    y = int.from_bytes(public, "little") & ~(1 << 255)  # the top bit is the sign of x
    if y >= FIELD or y in SMALL:
        reason = "the public key is of small order, or not in its canonical form"
        raise ProofRefused(reason, part=part, line=line)


def _parse_key(text: str, part: str, line: int | None) -> tuple[str, str, int, bytes]:
    """Name, key id, kind and material. Refusals never show the material: it may be secret."""
    fields = text.split("+", KEY_FIELDS - 1) if len(text) <= KEY_TEXT_MAX else []
    if len(fields) != KEY_FIELDS:
        raise ProofRefused("not a key `name+id+base64`", part=part, line=line)
    name, id_hex, material = fields
    _check_name(name, part, line)
    data = read_base64(material, "the key", part=part, line=line)
    if data[:1] not in (bytes([kind]) for kind in KINDS):
        raise ProofRefused(f"key type 0x{data[:1].hex()} is not read", part=part, line=line)
    if len(data) != 1 + KEY_BYTES:
        raise ProofRefused(f"the key has {len(data) - 1} bytes, not 32", part=part, line=line)
    return name, id_hex, data[0], data[1:]
