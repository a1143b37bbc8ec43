"""The configuration file: what it means, and that whatever is wrong is told with its line."""

from __future__ import annotations

import tomllib
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from ledger.errors import BadInput
from ledger.model import Agent, Family
from ledger.registry import Client, apply, load_registry
from workers.config import load_config
from workers.samples.fleet import FLEET, fleet_config
from workers.toml_lines import Lines

GOOD = """\
[ledger]
tau = "0.01"            # burn share of a payment
theta_plus = "500"      # B
theta_minus = "200"
rho_plus = "0.02"       # per epoch
rho_minus = "0.02"
epoch_s = 3600
[routing]
policy = "paper"
alpha = 0.3
delta_f = 5.0
f_max = 5
lambda_per_s = 0.001
epsilon = 0.0
seed = 7
[[clients]]
id = "R"
owner = "Frau Müller"
mint = "2000"
quota = "0.5"
[[agents]]
id = "A"
kind = "json"
url = "http://127.0.0.1:9001/run"
y_max = 1000
k = 1000000
slots = 10
quota = "300"
owner = "team-x"
region = "eu"
tools = ["python"]
headers = { "x-api-version" = "2025-10-01" }
[[agents]]
id = "B"
kind = "echo"
y_max = 5
k = 1
[[families]]
id = "extract"
size = 100
deadline_s = 5
max_attempts = 4
validator = { type = "json_schema", schema = { type = "object", required = ["answer"] } }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "fleet.toml"


def refusal(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(BadInput) as caught:
        load_config(file)
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_a_good_file_means_what_it_says(file: Path) -> None:
    file.write_text(GOOD)
    wanted = load_config(file)
    assert wanted.params == {
        "tau_ppm": 10_000,
        "clearing": {
            "theta_plus_ub": 500_000_000,
            "theta_minus_ub": 200_000_000,
            "rho_plus_ppm": 20_000,
            "rho_minus_ppm": 20_000,
            "epoch_s": 3600,
        },
        "routing": {
            "policy": "paper",
            "alpha": 0.3,
            "delta_f": 5.0,
            "f_max": 5.0,
            "lambda_per_s": 0.001,
            "epsilon": 0.0,
            "seed": 7,
        },
    }
    assert wanted.clients == [
        Client(id="R", owner="Frau Müller", mint_ub=2_000_000_000, quota_ub=500_000)
    ]
    assert wanted.agents[0] == Agent(
        id="A",
        kind="json",
        url="http://127.0.0.1:9001/run",
        y_max=1000,
        k=10**6,
        quota_ub=300_000_000,
        owner="team-x",
        region="eu",
        tools=frozenset({"python"}),
        headers={"x-api-version": "2025-10-01"},
    )
    assert wanted.agents[1] == Agent(id="B", kind="echo", url="", y_max=5, k=1)
    assert wanted.families == [
        Family(
            id="extract",
            size=100,
            deadline_s=5.0,
            max_attempts=4,
            validator={
                "type": "json_schema",
                "schema": {"type": "object", "required": ["answer"]},
            },
        )
    ]


CLEARING = """
[ledger]
grace_s = 86400
settled_min = 5
top_up = "1.5"
top_up_cap = "20"
"""


def test_clearing_is_configured(file: Path) -> None:
    file.write_text(CLEARING)
    assert load_config(file).params["clearing"] == {
        "grace_s": 86_400,
        "settled_min": 5,
        "top_up_ub": 1_500_000,
        "top_up_cap_ub": 20_000_000,
    }


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ('top_up_cap = "20"', "", 5, "ledger.top_up: more than top_up_cap"),
        ('"20"', '"1.4"', 5, "ledger.top_up: more than top_up_cap"),
        ("86400", "-1", 3, "ledger.grace_s: -1 is not possible; use whole seconds, 0 to"),
        ("= 5", "= 1.5", 4, "ledger.settled_min: 1.5 is not possible; use a whole number, 0 to"),
    ],
)
def test_a_clearing_that_cannot_be_is_refused(
    file: Path, old: str, new: str, line: int, reason: str
) -> None:
    assert refusal(file, CLEARING.replace(old, new)).startswith(f"{file}:{line}: {reason}")


def test_it_reaches_the_registry_once(file: Path, engine: Engine, now: datetime) -> None:
    file.write_text(GOOD)
    assert (
        len(apply(engine, load_config(file), now)) == 5
    )  # what burns and what is cleared stood like that
    assert apply(engine, load_config(file), now) == []
    registry = load_registry(engine)
    assert registry.tau_ppm == 10_000
    assert registry.routing.seed == 7
    assert registry.agents["A"].headers == {"x-api-version": "2025-10-01"}


def test_the_sample_fleets_file_is_good(file: Path) -> None:
    file.write_text(fleet_config({sample.name: 9000 for sample in FLEET}))
    assert len(load_config(file).agents) == len(FLEET)


@pytest.mark.parametrize(
    ("change", "line", "field", "reason"),
    [
        (('"paper"', '"adaptive"'), 9, "routing.policy", '"adaptive" is not possible; use "paper"'),
        (("slots = 10", "slotz = 10"), 27, "agents.A.slotz", "unknown; use id, kind"),
        (("[[families]]", "[[familes]]"), 38, "familes", "unknown; use ledger, routing"),
        (("[routing]", "[ledger.x]"), 8, "ledger.x", "unknown"),
        (("epoch_s = 3600", "epoch_s = 0"), 7, "ledger.epoch_s", "0 is not possible"),
        (('tau = "0.01"', 'tau = "1.1"'), 2, "ledger.tau", "not a share"),
        (('tau = "0.01"', 'tau = "0.0000001"'), 2, "ledger.tau", "not a share"),
        (('tau = "0.01"', "tau = 0.01"), 2, "ledger.tau", "in quotes"),
        (("alpha = 0.3", "alpha = nan"), 10, "routing.alpha", "NaN is not possible"),
        (("alpha = 0.3", "alpha = true"), 10, "routing.alpha", "true is not possible"),
        (('mint = "2000"', 'mint = "1e999999"'), 19, "clients.R.mint", "not a decimal number"),
        (('mint = "2000"', 'mint = "-1"'), 19, "clients.R.mint", "below zero"),
        (('mint = "2000"', 'mint = "9000000001"'), 19, "clients.R.mint", "out of range"),
        (('mint = "2000"', 'mint = "0.0000001"'), 19, "clients.R.mint", "finer"),
        (('id = "R"', 'id = "R:1"'), 17, "clients.R:1.id", "letters"),
        (('id = "B"', 'id = "A"'), 34, "agents.A.id", "line 22 has the same id"),
        (("y_max = 1000\n", "y_max = 1000000001\n"), 25, "agents.A.y_max", "1 to 1000000000"),
        (("y_max = 1000\n", ""), 21, "agents.A.y_max", "missing"),
        (("k = 1000000\n", "k = 0\n"), 26, "agents.A.k", "0 is not possible"),
        (('kind = "json"', 'kind = "soap"'), 23, "agents.A.kind", "use json, openai or echo"),
        (('kind = "json"', 'kind = "openai"'), 21, "agents.A.model", "missing"),
        (('kind = "json"', 'kind = "json"\nmodel = "m"'), 24, "agents.A.model", "has no model"),
        (('"http://127.0.0.1:9001/run"', '"ftp://x/"'), 24, "agents.A.url", "cannot be called"),
        (('"http://127.0.0.1:9001/run"', '"http://"'), 24, "agents.A.url", "cannot be called"),
        (('"http://127.0.0.1:9001/run"', '"http://h:99999"'), 24, "agents.A.url", "no URL"),
        (('"http://127.0.0.1:9001/run"', '"http://u:p@h/"'), 24, "agents.A.url", "into headers"),
        (('"http://127.0.0.1:9001/run"', '"http://169.254.169.254/"'), 24, "agents.A.url", "never"),
        (('"x-api-version"', '"Host"'), 32, "agents.A.headers.Host", "itself"),
        (('["python"]', '["python", "a b"]'), 31, "agents.A.tools[2]", "not possible"),
        (("deadline_s = 5", "deadline_s = inf"), 41, "families.extract.deadline_s", "Infinity"),
        (('"json_schema"', '"xml"'), 43, "families.extract.validator.type", "'xml' is unknown"),
        (('["answer"]', '"answer"'), 43, "families.extract.validator.schema", "required"),
        (('["answer"]', "2020-01-01"), 43, "families.extract.validator", "date"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(
    file: Path, change: tuple[str, str], line: int, field: str, reason: str
) -> None:
    old, new = change
    assert old in GOOD
    said = refusal(file, GOOD.replace(old, new, 1))
    assert said.startswith(f"{file}:{line}: {field}: ")
    assert reason in said


def test_the_first_of_several_mistakes_is_told(file: Path) -> None:
    text = GOOD.replace("epoch_s = 3600", "epoch_s = 0").replace("size = 100", "size = 0")
    assert refusal(file, text).startswith(f"{file}:7: ledger.epoch_s")


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a = 1\nb = = 2\n", 2, "Invalid value"),
        ('[ledger]\ntau = "0.1"\ntau = "0.2"\n', 3, "overwrite"),
        ('\nx = "abc', 2, "Unterminated string"),
        ("x = " + "9" * 5000, 1, "integer"),
    ],
)
def test_no_toml_is_told_with_the_parsers_line(
    file: Path, text: str, line: int, reason: str
) -> None:
    said = refusal(file, text)
    assert said.startswith(f"{file}:{line}: ")
    assert reason in said


def test_what_cannot_be_read_is_told(file: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        load_config(file)
    file.write_bytes(b'[ledger]\ntau = "\xff"')
    with pytest.raises(BadInput, match=r"fleet.toml:2: this is not UTF-8"):
        load_config(file)
    file.write_bytes(b"#" * (17 << 20))
    with pytest.raises(BadInput, match="larger than"):
        load_config(file)
    assert "nests too deep" in refusal(file, "x = " + "[" * 9000)


def test_a_refused_header_is_not_repeated(file: Path) -> None:
    said = refusal(file, GOOD.replace('"2025-10-01"', '"Bearer s3cr3t\\n"'))
    assert "s3cr3t" not in said
    assert said.startswith(f"{file}:32: ")


TRICKY = '''\
a.b."x y" = 1 # [no]
[ledger]
tau = """
[agents]
x = "1" \\""" """
rho = 'a#b]'
[[agents]]
tools = [
  "p", # c ]
  'q]',
]
inner = { "x-a" = "1", b.c = { d = [1,
2] } }
[agents.sub]
z = 1979-05-27T07:32:00Z
[[agents]]
[[agents.deep]]
k = 1
[[ agents . "deep" ]]
k = 2
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a", "b", "x y"), 1),
        (("ledger", "tau"), 3),
        (("ledger", "rho"), 6),
        (("agents", 0), 7),
        (("agents", 0, "tools", 1), 10),
        (("agents", 0, "inner", "b", "c", "d", 1), 13),
        (("agents", 0, "sub", "z"), 15),
        (("agents", 1), 16),
        (("agents", 1, "deep", 0, "k"), 18),
        (("agents", 1, "deep", 1, "k"), 20),
        (("agents", 1, "deep", 1, "absent", 3), 19),
        (("absent",), 1),
    ],
)
def test_lines_of_tricky_toml(path: tuple[str | int, ...], line: int) -> None:
    tomllib.loads(TRICKY)
    assert Lines(TRICKY).line(path) == line


words = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=8)
strings = st.text(st.sampled_from("ab#[]{},='\" \\\n\t"), max_size=12)


def written(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n").replace("\t", "\\t") + '"'


values: Any = st.recursive(
    st.integers().map(str) | strings.map(written) | st.sampled_from(["true", "1e3", "07:32:00"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[ {', '.join(items)} ]")
        | st.lists(inner, max_size=3).map(lambda items: "[\n" + ",\n".join(items) + "]")
        | st.dictionaries(words, inner, max_size=3).map(
            lambda table: "{ " + ", ".join(f"{k} = {v}" for k, v in table.items()) + " }"
        )
    ),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(words, values, max_size=4), min_size=1, max_size=4))
def test_every_key_is_found_where_it_was_written(tables: list[dict[str, str]]) -> None:
    text, lines = "", {}
    for index, table in enumerate(tables):
        text += "[[t]] # [x]\n"
        for key, value in table.items():
            lines["t", index, key] = text.count("\n") + 1
            text += f"{key} = {value}\n"
    tomllib.loads(text)
    found = Lines(text)
    assert {path: found.line(path) for path in lines} == lines


@pytest.mark.parametrize("host", ["2852039166", "0x7f.1", "0177.0.0.1", "127.1"])
def test_an_address_in_an_odd_spelling_is_refused(file: Path, host: str) -> None:
    said = refusal(file, GOOD.replace("127.0.0.1", host, 1))
    assert f"{host} is an odd spelling of an address" in said


def test_an_agent_in_a_network_that_is_opened_is_taken(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = GOOD.replace("127.0.0.1", "10.1.2.3", 1)
    assert "10.1.2.3 is not a global address" in refusal(file, private)
    monkeypatch.setenv("CLEARLANE_AGENT_NETWORKS", "10.0.0.0/8")
    file.write_text(private)
    assert load_config(file).agents[0].url == "http://10.1.2.3:9001/run"
