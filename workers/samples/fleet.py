"""The sample fleet: five agents, one of each manner, and the configuration that uses them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from string import Template

from workers.samples.agent import PATHS


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One agent of the fleet: how it behaves, and how it is registered."""

    name: str
    behaviour: str
    kind: str
    owner: str
    region: str
    tools: tuple[str, ...]
    seed: int
    # Twice what its slots need: its price then doubles and trebles under load, it does not explode.
    y_max: int = 2000  # tokens
    k: int = 4_000_000  # base price k / y_max**2 of 1 B
    refill_per_s: int = 0  # tokens; 0: capacity comes back when a task ends


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command to keep running."""

    name: str
    argv: tuple[str, ...]


FLEET: tuple[Sample, ...] = (
    Sample(
        name="ada",
        behaviour="good",
        kind="openai",
        owner="north",
        region="eu",
        tools=("python", "search"),
        seed=11,
    ),
    Sample(
        name="bram",
        behaviour="garble",
        kind="json",
        owner="harbour",
        region="eu",
        tools=("python",),
        seed=12,
    ),
    Sample(
        name="cleo",
        behaviour="slow",
        kind="json",
        owner="north",
        region="us",
        tools=("python", "browser"),
        seed=13,
    ),
    # Its bucket gives 5 calls a second after a burst of 8. The registered refill of 5.5 is a
    # little too hopeful, as such figures are, so that it answers 429 now and then.
    Sample(
        name="dora",
        behaviour="limited",
        kind="openai",
        owner="meadow",
        region="us",
        tools=("python",),
        seed=14,
        y_max=1000,
        k=1_000_000,
        refill_per_s=550,
    ),
    Sample(
        name="egon",
        behaviour="hang",
        kind="json",
        owner="harbour",
        region="ap",
        tools=("python",),
        seed=15,
    ),
)

HEAD = """\
# The sample fleet: five agents that outline Python sources, most of them badly.
[routing]
policy = "paper"
ceiling = 10.0

[[clients]]
id = "R"
mint = "1000000"

[[families]]
id = "outline"
size = 100
deadline_s = 2
max_attempts = 5
tools = ["python"]
validator = { type = "python", entry = "python_outline" }
"""

AGENT = Template("""
[[agents]]
id = "$name"
kind = "$kind"
url = "$url"
model = "$model"
y_max = $y_max
k = $k
refill_per_s = $refill_per_s
slots = 10
quota = "300"
owner = "$owner"
region = "$region"
tools = $tools
""")


def fleet_processes(ports: Mapping[str, int]) -> tuple[Command, ...]:
    """The commands of the fleet's agents, in the order of FLEET. `ports`: name to port."""
    return tuple(
        Command(
            name=sample.name,
            argv=(
                *(sys.executable, "-m", "workers.samples.agent"),
                *("--name", sample.name, "--port", str(ports[sample.name])),
                *("--behaviour", sample.behaviour, "--kind", sample.kind),
                *("--seed", str(sample.seed)),
            ),
        )
        for sample in FLEET
    )


def fleet_config(ports: Mapping[str, int]) -> str:
    """The configuration file (TOML) for the fleet at `ports`: name to port."""
    return HEAD + "".join(
        AGENT.substitute(
            name=sample.name,
            kind=sample.kind,
            url=f"http://127.0.0.1:{ports[sample.name]}{PATHS[sample.kind]}",
            model=f"outline-{sample.name}" if sample.kind == "openai" else "",
            y_max=sample.y_max,
            k=sample.k,
            refill_per_s=sample.refill_per_s,
            owner=sample.owner,
            region=sample.region,
            tools=json.dumps(sample.tools),
        )
        for sample in FLEET
    )
