"""Receipts: what one proves, and that no byte of it can be changed."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.proof.checkpoint import Checkpoint
from ledger.proof.errors import ProofRefused
from ledger.proof.merkle import EMPTY_EDGE, inclusion_proof, leaf_hash
from ledger.proof.notes import COSIGNER, LOG, Note, Signer
from ledger.proof.policy import Policy
from ledger.proof.receipts import HEADER, Receipt, verify
from ledger.proof.tiles import Hashes, Tile

ENTRIES = [b'{"type":"settle","task":"%d"}' % number for number in range(300)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
SIGNER = Signer(name="log.example/one", kind=LOG, seed=bytes(32))
WITNESSES = [
    Signer(name=f"w{number}.example", kind=COSIGNER, seed=bytes([number]) * 32)
    for number in (1, 2, 3)
]
HEAD = f"log {SIGNER.key.encode()}\n" + "".join(
    f"witness w{number} {signer.key.encode()}\n" for number, signer in enumerate(WITNESSES, 1)
)
ALL = Policy.parse(HEAD + "group g all w1 w2 w3\nquorum g\n")
TWO = Policy.parse(HEAD + "group g 2 w1 w2 w3\nquorum g\n")
TIME_S = 1_790_000_000


def note_of(size: int, *, signers: int = 3, origin: str = SIGNER.name) -> Note:
    root = EMPTY_EDGE.grown(LEAVES[:size]).root()
    body = Checkpoint(origin=origin, size=size, root=root).body()
    cosigned = (s.sign(body, time_s=TIME_S) for s in WITNESSES[:signers])
    return Note(text=body, signatures=(SIGNER.sign(body), *cosigned))


def receipt_of(index: int, size: int, *, signers: int = 3) -> Receipt:
    def fetch(tile: Tile) -> bytes:
        if tile.level:
            return EMPTY_EDGE.grown(LEAVES[:256]).root()
        return b"".join(LEAVES[tile.number * 256 :][: tile.width])

    proof = inclusion_proof(index, size, Hashes(fetch, size))
    return Receipt(index=index, proof=proof, note=note_of(size, signers=signers))


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_receipt_proves_its_entry(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 300))
    index = data.draw(st.integers(0, size - 1))
    receipt = receipt_of(index, size)
    text = receipt.encode()
    assert Receipt.parse(text) == receipt
    verified = verify(text.encode(), ENTRIES[index], SIGNER.key, ALL)
    assert verified.index == index
    assert verified.checkpoint.size == size
    assert [(w.key, w.time_s) for w in verified.witnesses] == [(s.key, TIME_S) for s in WITNESSES]
    with pytest.raises(ProofRefused, match=r"^inclusion proof: "):
        verify(text, ENTRIES[index] + b" ", SIGNER.key, ALL)
    other = data.draw(st.integers(0, 299).filter(lambda number: number != index))
    with pytest.raises(ProofRefused, match=r"^inclusion proof: "):
        verify(text, ENTRIES[other], SIGNER.key, ALL)


def test_its_text() -> None:
    receipt = receipt_of(1, 3, signers=0)
    lines = receipt.encode().split("\n")
    assert lines[:2] == ["c2sp.org/tlog-proof@v1", "index 1"]
    assert lines[2] == base64.b64encode(LEAVES[0]).decode()
    assert lines[3] == base64.b64encode(LEAVES[2]).decode()
    assert lines[4:7] == ["", "log.example/one", "3"]
    assert lines[8] == ""
    assert lines[9].startswith("— log.example/one ")
    assert lines[10:] == [""]


def test_no_bit_of_a_receipt_can_be_changed() -> None:
    """Every bit of a receipt that all its signers are needed for, of an odd place in the tree."""
    text, entry = receipt_of(5, 7).encode().encode(), ENTRIES[5]
    verify(text, entry, SIGNER.key, ALL)
    for place in range(len(text)):
        for bit in range(8):
            changed = bytearray(text)
            changed[place] ^= 1 << bit
            with pytest.raises(ProofRefused) as caught:
                verify(bytes(changed), entry, SIGNER.key, ALL)
            assert caught.value.part in {"receipt", "inclusion proof"}


def test_nothing_can_be_left_out_or_put_in() -> None:
    text, entry = receipt_of(5, 7).encode(), ENTRIES[5]
    for place in range(len(text)):
        with pytest.raises(ProofRefused):
            verify(text[:place], entry, SIGNER.key, ALL)
        with pytest.raises(ProofRefused):
            verify(text[:place] + text[place + 1 :], entry, SIGNER.key, ALL)
        for more in "\n \rA=":
            if text[place] != more:
                with pytest.raises(ProofRefused):
                    verify(text[:place] + more + text[place:], entry, SIGNER.key, ALL)


def test_no_bit_of_the_entry_can_be_changed() -> None:
    text, entry = receipt_of(5, 7).encode(), ENTRIES[5]
    for bit in range(len(entry) * 8):
        changed = bytearray(entry)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProofRefused, match="index in line 2, hashes from line 3 to 5"):
            verify(text, bytes(changed), SIGNER.key, ALL)


def test_the_line_of_a_change_is_named() -> None:
    lines = receipt_of(5, 7).encode().split("\n")

    def refusal(number: int, line: str) -> str:
        changed = [*lines[: number - 1], line, *lines[number:]]
        with pytest.raises(ProofRefused) as caught:
            verify("\n".join(changed), ENTRIES[5], SIGNER.key, ALL)
        return str(caught.value)

    assert refusal(1, "c2sp.org/tlog-proof@v2") == f"receipt, line 1: not the line {HEADER}"
    assert refusal(2, "index 05") == "receipt, line 2: the index '05' is not a number"
    assert refusal(2, "indices 5").startswith("receipt, line 2: not a line `index N`")
    assert refusal(2, "index 4").startswith("inclusion proof: leaf 4 with this proof gives root")
    assert refusal(2, "index 6").startswith("inclusion proof: a proof of leaf 6 of 7 has 2 hashes")
    assert refusal(2, "index 7").startswith("inclusion proof: index 7 is not in a tree of 7")
    assert refusal(4, "AAAA") == "receipt, line 4: the hash has 3 bytes, not 32"
    assert refusal(7, "log.example/two").startswith("receipt, line 11: the signature of log.exam")
    assert refusal(8, "8").startswith("receipt, line 11: the signature of log.example/one")
    assert refusal(8, "08") == "receipt, line 8: the size '08' is not a number"
    assert refusal(9, "AAAA") == "receipt, line 9: the root has 3 bytes, not 32"
    assert refusal(12, lines[12]).startswith("receipt: no quorum: group g has 2 of 3, not w1")
    forged = lines[12].replace("w2.example", "w9.example")
    message = refusal(13, forged)
    assert message.startswith("receipt: no quorum: group g has 2 of 3, not w2; no signature of w2")
    assert message.endswith("(line 13 has this key id but the name 'w9.example')")


def test_extra_data_are_refused() -> None:
    text = receipt_of(5, 7).encode().replace("index", "extra AAAA\nindex")
    with pytest.raises(ProofRefused, match="receipt, line 2: extra data: nothing signs them"):
        verify(text, ENTRIES[5], SIGNER.key, ALL)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("", "line 1: not the line"),
        (f"{HEADER}\n", "line 2: not a line `index N`"),
        (HEADER, "line 2: the text ends"),
        (f"{HEADER}\nindex 0", "line 2: no blank line and checkpoint"),
        (f"{HEADER}\nindex 0\n", "line 3: the hash has 0 bytes"),
        (f"{HEADER}\nindex 0\n\n", "line 2: no blank line and checkpoint"),
        (f"{HEADER}\nindex 0\n\nlog\n", "line 4: no blank line and signature lines"),
        (f"{HEADER}\r\nindex 0\r\n\r\n", "line 1: not the line"),
        (f"{HEADER}\nindex 0\n" + "A" * 43 + "=\n" * 1, "line 4: the hash has 0 bytes"),
        (f"\ufeff{HEADER}\nindex 0\n", "line 1: not the line"),
        (HEADER.encode() + b"\nindex \xff\n", "line 2: not UTF-8"),
    ],
)
def test_what_is_no_receipt(text: str | bytes, refusal: str) -> None:
    with pytest.raises(ProofRefused, match=f"receipt, {refusal}"):
        Receipt.parse(text)


def test_it_has_at_most_63_hashes() -> None:
    head = f"{HEADER}\nindex 0\n" + f"{'A' * 43}=\n" * 64
    with pytest.raises(ProofRefused, match="receipt: more than 63 hashes"):
        Receipt.parse(head + "\n" + note_of(3).encode())
    with pytest.raises(ProofRefused, match="receipt: 1010001 bytes"):
        Receipt.parse("a" * 1_010_001)


def test_the_policy_decides_how_many_witnesses_are_enough() -> None:
    text = receipt_of(5, 7, signers=2).encode()
    assert len(verify(text, ENTRIES[5], SIGNER.key, TWO).witnesses) == 2
    assert verify(text, ENTRIES[5], SIGNER.key, None).witnesses == ()
    with pytest.raises(ProofRefused, match="no quorum: group g has 2 of 3, not w3"):
        verify(text, ENTRIES[5], SIGNER.key, ALL)
    alone = receipt_of(5, 7, signers=0).encode()
    assert verify(alone, ENTRIES[5], SIGNER.key, Policy.parse("quorum none\n")).index == 5
    with pytest.raises(ProofRefused, match="no quorum"):
        verify(alone, ENTRIES[5], SIGNER.key, TWO)


def test_witnesses_without_the_log_are_not_enough() -> None:
    receipt = receipt_of(5, 7)
    note = Note(text=receipt.note.text, signatures=receipt.note.signatures[1:])
    bare = Receipt(index=5, proof=receipt.proof, note=note).encode()
    with pytest.raises(ProofRefused, match=r"receipt: no signature of log\.example/one"):
        verify(bare, ENTRIES[5], SIGNER.key, ALL)


def test_a_log_speaks_for_its_own_origin_only() -> None:
    note = note_of(7, origin="log.example/two")
    text = Receipt(index=5, proof=receipt_of(5, 7).proof, note=note).encode()
    with pytest.raises(ProofRefused, match=r"line 7: the origin 'log\.example/two' is not 'log"):
        verify(text, ENTRIES[5], SIGNER.key, ALL)


def test_the_log_is_one_of_the_policys_logs() -> None:
    other = Signer(name="other.example", kind=LOG, seed=bytes([7]) * 32)
    policy = Policy.parse(f"log {other.key.encode()}\nquorum none\n")
    text = receipt_of(5, 7).encode()
    with pytest.raises(ProofRefused, match=r"policy: log.example/one\+\w+ is not one of its logs"):
        verify(text, ENTRIES[5], SIGNER.key, policy)


def test_a_witness_is_no_log() -> None:
    with pytest.raises(ProofRefused, match="is not the key of a log"):
        verify(receipt_of(5, 7).encode(), ENTRIES[5], WITNESSES[0].key, None)


def test_lines_of_strangers_change_nothing() -> None:
    stranger = Signer(name="stranger.example", kind=COSIGNER, seed=bytes([8]) * 32)
    receipt = receipt_of(5, 7)
    note = receipt.note.signed(stranger.sign(receipt.note.text, time_s=TIME_S))
    text = Receipt(index=5, proof=receipt.proof, note=note).encode()
    assert len(verify(text, ENTRIES[5], SIGNER.key, ALL).witnesses) == 3
