"""Policies: who must have signed, and every line that does not say so."""

from __future__ import annotations

import itertools

import pytest

from ledger.proof.errors import ProofRefused
from ledger.proof.notes import COSIGNER, LOG, Signer, VerifierKey
from ledger.proof.policy import Policy

LOG_KEY = Signer(name="log.example", kind=LOG, seed=bytes([50]) * 32).key.encode()
KEYS = [
    Signer(name=f"w{number}.example", kind=COSIGNER, seed=bytes([number]) * 32).key.encode()
    for number in range(8)
]
WITNESSES = "".join(f"witness w{number} {key}\n" for number, key in enumerate(KEYS))
LEVELS = f"""# two operators
log {LOG_KEY} https://log.example/
witness X1 {KEYS[1]}
witness X2 {KEYS[2]}   https://w2.example
  witness\tX3 {KEYS[3]}

group X-witnesses 2 X1 X2 X3
witness Y1 {KEYS[4]}
witness Y2 {KEYS[5]}
group Y-witnesses any Y1 Y2
\t# both
group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
"""


def test_two_levels_of_groups() -> None:
    policy = Policy.parse(LEVELS)
    assert [log.url for log in policy.logs] == ["https://log.example/"]
    assert [(w.name, w.url) for w in policy.witnesses][1] == ("X2", "https://w2.example")
    names = [witness.name for witness in policy.witnesses]
    for signed in itertools.chain.from_iterable(
        itertools.combinations(names, count) for count in range(6)
    ):
        enough = len({"X1", "X2", "X3"} & {*signed}) >= 2 and bool({"Y1", "Y2"} & {*signed})
        assert policy.satisfied(signed) == enough
        assert (policy.missing(signed) == "") == enough


def test_it_says_what_is_missing() -> None:
    policy = Policy.parse(LEVELS)
    assert policy.missing(["X1", "Y2", "stranger"]) == (
        "group X-and-Y has 1 of 2, not X-witnesses; group X-witnesses has 1 of 2, not X2, X3"
    )
    single = Policy.parse(WITNESSES + "quorum w3\n")
    assert single.missing(["w2"]) == "witness w3 has not signed"
    assert single.satisfied(["w3"])


def test_a_quorum_of_none_needs_nobody() -> None:
    policy = Policy.parse(b"quorum none\n")
    assert policy.satisfied([])
    assert policy.missing([]) == ""
    assert policy.logs == ()
    assert policy.witnesses == ()


def test_thirty_two_of_each_are_read() -> None:
    lines, seeds = [], iter(range(1, 255))
    for number in range(32):
        key = Signer(name=f"log{number}", kind=LOG, seed=bytes([next(seeds)]) * 32).key
        lines.append(f"log {key.encode()}")
        witness = Signer(name=f"w{number}", kind=COSIGNER, seed=bytes([next(seeds)]) * 32).key
        lines += [f"witness w{number} {witness.encode()}", f"group g{number} any w{number}"]
    lines.append("group all 32 " + " ".join(f"g{number}" for number in range(32)))
    policy = Policy.parse("\n".join([*lines, "quorum all", ""]))
    assert policy.satisfied([f"w{number}" for number in range(32)])
    assert not policy.satisfied([f"w{number}" for number in range(31)])


def test_names_are_octets() -> None:
    """A Kelvin sign is not a K, a no-break space is no space, and what is not UTF-8 is kept."""
    kelvin = f"witness K {KEYS[0]}\nwitness \u212a {KEYS[1]}\nwitness a\u00a0b {KEYS[2]}\n"
    policy = Policy.parse(kelvin.encode() + b"# \xff\xfe\nquorum K\n")
    assert [witness.name for witness in policy.witnesses] == ["K", "\u212a", "a\u00a0b"]
    assert not policy.satisfied(["\u212a"])
    raw = Policy.parse(b"witness \xff " + KEYS[0].encode() + b"\nquorum \xff\n")
    assert raw.satisfied([raw.witnesses[0].name])
    assert raw.missing([]) == r"witness \xff has not signed"
    with pytest.raises(ProofRefused, match=r"line 1: \\xff is not defined above"):
        Policy.parse(b"quorum \xff\n")


RENAMED = Signer(name="again.example", kind=COSIGNER, seed=bytes([0]) * 32).key.encode()
SAME_AS_LOG = Signer(name="log.example", kind=COSIGNER, seed=bytes([50]) * 32).key.encode()


@pytest.mark.parametrize(
    ("line", "refusal"),
    [
        ("witnes x y", "'witnes' is not log, witness, group or quorum"),
        ("log", "not `log KEY"),
        (f"log {KEYS[0]} url more", "not `log KEY"),
        ("witness x", "not `witness NAME"),
        (f"witness x {KEYS[0]} url more", "not `witness NAME"),
        ("group g 2", "not `group NAME"),
        ("group g any", "not `group NAME"),
        ("quorum", "not `quorum NAME"),
        ("quorum w1 w2", "not `quorum NAME"),
        (f"log {KEYS[0]}", "w0.example.* is not the key of a log"),
        (f"witness x {LOG_KEY}", "log.example.* is not the key of a witness"),
        (f"witness x {KEYS[0]}", "is the key of line 2 again"),
        (f"witness x {RENAMED}", "again.example.* is the key of line 2 again"),
        (f"witness x {SAME_AS_LOG}", "is the key of line 1 again"),
        (f"log {LOG_KEY}", "is the key of line 1 again"),
        (f"witness w1 {KEYS[7]}", "w1 is defined in line 3"),
        (f"witness none {KEYS[7]}", "`none`"),
        ("group w1 any w2", "w1 is defined in line 3"),
        ("group none any w2", "`none`"),
        ("group g any g", "g is not defined above"),
        ("group g any none", "none is not defined above"),
        ("group g any stranger", "stranger is not defined above"),
        ("group g 1 w1 w1", "w1 is in group g already"),
        ("group g any w3", "w3 is in group first already"),
        ("group g 0 w1", "0 is not all, any or a number from 1 to 1"),
        ("group g 2 w1", "2 is not all, any or a number from 1 to 1"),
        ("group g 01 w1", "01 is not"),
        ("group g +1 w1", "is not all"),
        ("group g one w1", "one is not"),
        ("quorum stranger", "stranger is not defined above"),
        ("a\x0b", "octet 0x0b"),
        ("# comment\r", "octet 0x0d"),
        ("# \x7f", "octet 0x7f"),
    ],
)
def test_a_line_says_one_thing(line: str, refusal: str) -> None:
    head = f"log {LOG_KEY}\n" + "".join(WITNESSES.splitlines(keepends=True)[:7])
    text = f"{head}group first all w3 w4\n{line}\nquorum w0\n"
    with pytest.raises(ProofRefused, match=f"policy, line 10: .*{refusal}"):
        Policy.parse(text)


def test_there_is_one_quorum() -> None:
    with pytest.raises(ProofRefused, match="policy, line 10: a second quorum line"):
        Policy.parse(WITNESSES + "quorum w1\nquorum w1\n")
    with pytest.raises(ProofRefused, match="policy: no quorum line"):
        Policy.parse(WITNESSES)
    with pytest.raises(ProofRefused, match="policy: no quorum line"):
        Policy.parse("")


def test_a_policy_that_was_cut_short_is_refused() -> None:
    """`quorum w1` could have been `quorum w12`."""
    with pytest.raises(ProofRefused, match="policy, line 9: the last line has no newline"):
        Policy.parse(WITNESSES + "quorum w1")
    with pytest.raises(ProofRefused, match="more than 262144 bytes"):
        Policy.parse("#" * 262_145)


def test_a_changed_key_is_refused_with_its_line() -> None:
    text = f"log {LOG_KEY}\nwitness w1 {KEYS[1]}\nquorum w1\n"
    start = text.index(KEYS[1])
    for place in range(start, start + len(KEYS[1])):
        changed = text[:place] + ("B" if text[place] != "B" else "C") + text[place + 1 :]
        with pytest.raises(ProofRefused, match="policy, line 2: "):
            Policy.parse(changed)


def test_two_keys_that_a_signature_cannot_tell_apart_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of them could sign for neither. Four bytes are soon met; here all ids are the same."""
    monkeypatch.setattr(VerifierKey, "key_id", bytes(4))
    keys = [
        Signer(name="w.example", kind=COSIGNER, seed=bytes([seed]) * 32).key.encode()
        for seed in (1, 2)
    ]
    with pytest.raises(ProofRefused, match=r"line 2: .*is the name and key id of line 1 too"):
        Policy.parse(f"witness a {keys[0]}\nwitness b {keys[1]}\nquorum a\n")


def test_no_more_witnesses_than_a_note_has_room_for() -> None:
    lines = [
        f"witness w{n} {Signer(name=f'w{n}', kind=COSIGNER, seed=bytes([n]) * 32).key.encode()}\n"
        for n in range(99)
    ]
    assert len(Policy.parse("".join(lines[:98]) + "quorum none\n").witnesses) == 98
    with pytest.raises(ProofRefused, match="line 99: more than 98 witnesses do not fit one note"):
        Policy.parse("".join(lines) + "quorum none\n")
