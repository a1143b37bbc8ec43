"""Signed notes, keys, cosignatures and checkpoints: one spelling each, and nothing unverified."""

from __future__ import annotations

import base64
import re
from hashlib import sha256

import pytest

from ledger.errors import InvariantBroken
from ledger.proof.checkpoint import Checkpoint
from ledger.proof.errors import ProofRefused
from ledger.proof.merkle import EMPTY_ROOT
from ledger.proof.notes import COSIGNER, LOG, Note, Signature, Signed, Signer, VerifierKey

ROOT = sha256(b"root").digest()
LOG_SIGNER = Signer(name="log.example/one", kind=LOG, seed=bytes(range(32)))
WITNESS = Signer(name="w1.example", kind=COSIGNER, seed=bytes([1]) * 32)
OTHER = Signer(name="other.example", kind=LOG, seed=bytes([2]) * 32)
BODY = Checkpoint(origin=LOG_SIGNER.name, size=12, root=ROOT).body()
NOTE = Note(text=BODY, signatures=(LOG_SIGNER.sign(BODY), WITNESS.sign(BODY, time_s=1_700_000_000)))
# The example in the text of c2sp.org/signed-note.
SPEC_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = (
    "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONnc"
    "AlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)


def test_the_specifications_example_verifies() -> None:
    key = VerifierKey.parse(SPEC_KEY)
    note = Note.parse(SPEC_NOTE)
    assert note.text == "This is an example message.\n"
    assert note.verified_by([key]) == (Signed(key=key, time_s=None),)
    assert key.encode() == SPEC_KEY
    assert note.encode() == SPEC_NOTE


def test_a_note_is_read_back_and_verified() -> None:
    text = NOTE.encode()
    assert Note.parse(text) == Note.parse(text.encode()) == NOTE
    assert NOTE.verified_by([WITNESS.key, LOG_SIGNER.key]) == (
        Signed(key=LOG_SIGNER.key, time_s=None),
        Signed(key=WITNESS.key, time_s=1_700_000_000),
    )


def test_a_cosignature_signs_its_time() -> None:
    blob = NOTE.signatures[1].data
    assert len(blob) == 72
    later = Signature(
        name=WITNESS.name,
        key_id=WITNESS.key.key_id,
        data=(1_700_000_001).to_bytes(8, "big") + blob[8:],
    )
    with pytest.raises(ProofRefused, match=r"line 5: the signature of w1\.example"):
        Note(text=BODY, signatures=(later,)).verified_by([WITNESS.key])


@pytest.mark.parametrize("time_s", [0, 253_402_300_800, 1_763_750_000_000, 2**63, 2**64 - 1])
def test_a_cosignature_has_a_time(time_s: int) -> None:
    data = time_s.to_bytes(8, "big") + bytes(64)
    line = Signature(name=WITNESS.name, key_id=WITNESS.key.key_id, data=data)
    with pytest.raises(ProofRefused, match=f"{time_s} is not the time"):
        Note(text=BODY, signatures=(line,)).verified_by([WITNESS.key])
    with pytest.raises((InvariantBroken, OverflowError)):
        WITNESS.sign(BODY, time_s=time_s)


def test_a_log_signs_no_time_and_a_cosigner_always() -> None:
    with pytest.raises(InvariantBroken):
        LOG_SIGNER.sign(BODY, time_s=1)
    with pytest.raises(InvariantBroken):
        WITNESS.sign(BODY)


@pytest.mark.parametrize("text", ["no newline", "a\rb\n", "a\tb\n"])
def test_what_is_no_text_is_not_signed(text: str) -> None:
    with pytest.raises((InvariantBroken, ProofRefused)):
        LOG_SIGNER.sign(text)


def test_lines_of_unknown_keys_are_ignored() -> None:
    namesake = Signer(name=LOG_SIGNER.name, kind=LOG, seed=bytes([9]) * 32)
    note = NOTE.signed(OTHER.sign("other text\n"), namesake.sign("other text\n"))
    assert [signed.key for signed in note.verified_by([LOG_SIGNER.key])] == [LOG_SIGNER.key]


def test_a_bad_signature_of_a_known_key_refuses_the_note() -> None:
    note = NOTE.signed(OTHER.sign("other text\n"))
    with pytest.raises(ProofRefused, match=r"line 7: the signature of other\.example"):
        note.verified_by([LOG_SIGNER.key, OTHER.key])


def test_a_key_that_signs_twice_is_checked_twice_and_counts_once() -> None:
    twice = NOTE.signed(LOG_SIGNER.sign(BODY), WITNESS.sign(BODY, time_s=1_800_000_000))
    assert twice.verified_by([LOG_SIGNER.key, WITNESS.key]) == (
        Signed(key=LOG_SIGNER.key, time_s=None),
        Signed(key=WITNESS.key, time_s=1_800_000_000),
    )
    forged = NOTE.signed(LOG_SIGNER.sign("other text\n"))
    with pytest.raises(ProofRefused, match="line 7"):
        forged.verified_by([LOG_SIGNER.key])


def test_without_a_known_signature_a_note_is_refused() -> None:
    with pytest.raises(ProofRefused, match=re.escape(f"no signature of {OTHER.key}")):
        NOTE.verified_by([OTHER.key])
    with pytest.raises(ProofRefused, match="no key is known"):
        NOTE.verified_by([])
    namesake = Signer(name=LOG_SIGNER.name, kind=LOG, seed=bytes([9]) * 32)
    id_hex = LOG_SIGNER.key.key_id.hex()
    with pytest.raises(ProofRefused, match=f"line 5 has this name but key id {id_hex}"):
        NOTE.verified_by([namesake.key])


def test_a_key_of_one_kind_does_not_verify_the_other() -> None:
    as_log = Signer(name=WITNESS.name, kind=LOG, seed=WITNESS.seed)
    assert as_log.key.key_id != WITNESS.key.key_id
    blob = NOTE.signatures[1].data
    line = Signature(name=as_log.name, key_id=as_log.key.key_id, data=blob)
    with pytest.raises(ProofRefused, match="has 72 bytes, not 64"):
        Note(text=BODY, signatures=(line,)).verified_by([as_log.key])


def test_the_text_of_a_note_may_have_blank_lines() -> None:
    text = "one\n\n\ntwo\n"
    note = Note(text=text, signatures=(OTHER.sign(text),))
    assert Note.parse(note.encode()) == note
    with pytest.raises(ProofRefused, match="line 6"):
        Note(text=text, signatures=(OTHER.sign(BODY),)).verified_by([OTHER.key])


def test_sixteen_signatures_are_read_and_a_thousand_are_not() -> None:
    line = OTHER.sign(BODY)
    assert len(Note.parse(Note(text=BODY, signatures=(line,) * 16).encode()).signatures) == 16
    with pytest.raises(ProofRefused, match="more than 100 signatures"):
        Note.parse(Note(text=BODY, signatures=(line,) * 1000).encode())
    with pytest.raises(ProofRefused, match="at most 1000000 are read"):
        Note.parse("a" * 1_000_001)


SIGNATURE = "— a.example " + base64.b64encode(bytes(68)).decode()
SHORT = base64.b64encode(bytes(4)).decode()


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("", "line 1: the last line has no newline"),
        (f"text\n\n{SIGNATURE}", "line 3: the last line has no newline"),
        (f"text\n{SIGNATURE}\n", "line 2: no blank line"),
        (f"text\n\n{SIGNATURE}\n\n", "line 4: no blank line and signature lines"),
        ("text\n\n", "line 2: no blank line and signature lines"),
        (f"text\n\n{SIGNATURE}\nmore\n", "line 4: not a line `— name signature`"),
        (f"text\n\n {SIGNATURE}\n", "line 3: not a line"),
        (f"text\n\n{SIGNATURE.replace('—', '-')}\n", "line 3: not a line"),
        (f"text\n\n{SIGNATURE.replace('—', '–')}\n", "line 3: not a line"),
        (f"text\n\n{SIGNATURE.replace('— ', '—')}\n", "line 3: not a line"),
        ("text\n\n— a.example\n", "line 3: not a line"),
        (f"text\n\n{SIGNATURE.replace('.', '+')}\n", r"line 3: key name 'a\+example'"),
        ("text\n\n" + SIGNATURE.replace(".", "\u00a0") + "\n", "line 3: key name"),
        ("text\n\n" + SIGNATURE.replace(".", "\u2028") + "\n", "line 3: key name"),
        (f"text\n\n{SIGNATURE.replace('a.example', '')}\n", "line 3: key name ''"),
        (f"text\n\n{SIGNATURE.replace('.', ' ')}\n", "line 3: the signature is not base64"),
        (f"text\n\n{SIGNATURE} \n", "line 3: the signature is not base64"),
        (f"text\n\n{SIGNATURE[:-1]}\n", "line 3: the signature is not base64"),
        (f"text\n\n{SIGNATURE[:-2]}B=\n", "line 3: the signature is base64 with bits left over"),
        (f"text\n\n{SIGNATURE}=\n", "line 3: the signature is"),
        (f"text\n\n{SIGNATURE.replace('A', '_')}\n", "line 3: the signature is not base64"),
        (f"text\n\n{SIGNATURE.replace('A', 'Å')}\n", "line 3: the signature is not base64"),
        (f"text\n\n— a.example {SHORT}\n", "line 3: the signature has no bytes"),
        ("text\n\n— a.example \n", "line 3: the signature has no bytes"),
        (f"te\rxt\n\n{SIGNATURE}\n", r"line 1: control character U\+000D"),
        (f"text\n\x00\n\n{SIGNATURE}\n", r"line 2: control character U\+0000"),
        (f"text\n\n{SIGNATURE}\r\n", r"line 3: control character U\+000D"),
        (b"text\n\xff\n\n" + SIGNATURE.encode() + b"\n", "line 2: not UTF-8"),
        (f"text\n\n{SIGNATURE}\ud800\n", "line 3: not UTF-8"),
    ],
)
def test_a_note_has_one_form(text: str | bytes, refusal: str) -> None:
    with pytest.raises(ProofRefused, match=f"note, {refusal}"):
        Note.parse(text)


def test_no_changed_character_of_a_key_goes_unnoticed() -> None:
    for text in (LOG_SIGNER.key.encode(), WITNESS.key.encode(), SPEC_KEY):
        assert VerifierKey.parse(text).encode() == text
        for place, letter in enumerate(text):
            for other in {"A", "a", "+", " ", "=", "0", "\n", "é"} - {letter}:
                with pytest.raises(ProofRefused, match=r"^key: "):
                    VerifierKey.parse(text[:place] + other + text[place + 1 :])
            with pytest.raises(ProofRefused):
                VerifierKey.parse(text[:place] + text[place + 1 :])


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("", "not a key"),
        ("name+00000000", "not a key"),
        ("x" * 5000, "not a key"),
        (SPEC_KEY.upper(), "key"),
        (SPEC_KEY.replace("530d903a", "530D903A"), "key id '530D903A' is not 530d903a"),
        ("a b+00000000+AA==", "key name 'a b'"),
        ("+00000000+AA==", "key name ''"),
        ("a+00000000+AA==", "key type 0x00 is not read"),
        ("a+00000000+", "key type 0x is not read"),
        ("a+00000000+AQ==", "the key has 0 bytes"),
        ("a+00000000+" + base64.b64encode(b"\x06" + bytes(1312)).decode(), "key type 0x06"),
    ],
)
def test_a_key_has_one_form(text: str, refusal: str) -> None:
    with pytest.raises(ProofRefused, match=refusal):
        VerifierKey.parse(text, part="policy", line=3)


def test_a_private_key_is_read_back_and_kept_secret() -> None:
    text = WITNESS.encode()
    assert Signer.parse(text) == WITNESS
    assert str(WITNESS.seed) not in repr(WITNESS)
    secret = text.rpartition("+")[2]
    for bad in (text[:-2], text.replace("KEY", "KEYS"), text.replace("w1", "w2"), text + "\n"):
        with pytest.raises(ProofRefused) as caught:
            Signer.parse(bad)
        assert secret[4:20] not in str(caught.value)


def test_a_checkpoint_is_read_back() -> None:
    checkpoint = Checkpoint(origin="log.example/one", size=12, root=ROOT)
    assert Checkpoint.parse(checkpoint.body()) == checkpoint
    empty = Checkpoint(origin="log.example/one", size=0, root=EMPTY_ROOT)
    assert Checkpoint.parse(empty.body()) == empty


R64 = base64.b64encode(ROOT).decode()


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ("", "line 1: 0 lines"),
        (f"o\n12\n{R64}", "line 1: 2 lines"),
        (f"o\n12\n{R64}\nextension\n", "line 1: 4 lines"),
        (f"o\n12\n{R64}\n\n", "line 1: 4 lines"),
        (f"\n12\n{R64}\n", "line 1: the origin is empty"),
        (f"o\n012\n{R64}\n", "line 2: the size '012' is not a number"),
        (f"o\n+12\n{R64}\n", "line 2: the size"),
        (f"o\n-1\n{R64}\n", "line 2: the size"),
        (f"o\n 12\n{R64}\n", "line 2: the size"),
        (f"o\n1_2\n{R64}\n", "line 2: the size"),
        (f"o\n١٢\n{R64}\n", "line 2: the size"),
        (f"o\n\n{R64}\n", "line 2: the size"),
        (f"o\n9223372036854775808\n{R64}\n", "line 2: the size"),
        (f"o\n12\n{R64[:-1]}\n", "line 3: the root is not base64"),
        ("o\n12\n\n", "line 3: the root has 0 bytes"),
        (f"o\n12\n{base64.b64encode(bytes(31)).decode()}\n", "line 3: the root has 31 bytes"),
        (f"o\n0\n{R64}\n", "line 3: .* cannot be the root of 0 leaves"),
        (f"o\n1\n{base64.b64encode(EMPTY_ROOT).decode()}\n", "line 3: .* root of 1 leaves"),
    ],
)
def test_a_checkpoint_has_one_form(body: str, refusal: str) -> None:
    with pytest.raises(ProofRefused, match=f"checkpoint, {refusal}"):
        Checkpoint.parse(body)


@pytest.mark.parametrize(
    "public",
    [
        bytes(32).hex(),
        "01" + 31 * "00",
        "01" + 30 * "00" + "80",  # the same point with another sign
        "ec" + 30 * "ff" + "7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "ed" + 30 * "ff" + "7f",  # p, another spelling of 0
        "f0" + 30 * "ff" + "7f",  # p + 3
        32 * "ff",
    ],
)
def test_a_public_key_that_anybody_can_sign_for_is_refused(public: str) -> None:
    text = VerifierKey(name="a", kind=LOG, public=bytes.fromhex(public)).encode()
    with pytest.raises(ProofRefused, match="of small order, or not in its canonical form"):
        VerifierKey.parse(text)
