"""The scripts of `scheduler/lua`, one verb each, run on a whole set of calls as one command.

A script's file says what happens to one attempt or agent; a loop around it takes the set. So a
chunk costs one command to write and one answer to read, and each call is still all or nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

VERBS = (
    "look",
    "seed",
    "reserve",
    "begin",
    "answer",
    "advance",
    "read",
    "give_up",
    "extend",
    "release",
    "judge",
    "rest",
    "set_back",
    "fence",
    "slow",
    "ease",
)

Call = tuple[Sequence[str], Sequence[Any]]
"""Keys and arguments of one call, as the script's header lists them; alike for a whole set."""

LOOP = """\
local function verb(KEYS, ARGV)
{body}
end
local answers = {{}}
local calls, keys, args = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
for i = 0, calls - 1 do
  answers[i + 1] = verb(
    {{unpack(KEYS, i * keys + 1, (i + 1) * keys)}},
    {{unpack(ARGV, i * args + 4, (i + 1) * args + 3)}})
end
return answers
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Script:
    """One verb: its text and the name the server knows it by."""

    text: str
    sha: str

    @classmethod
    def read(cls, verb: str) -> Script:
        """The script of `scheduler/lua/<verb>.lua`, with the loop around it."""
        body = resources.files("scheduler.lua").joinpath(f"{verb}.lua").read_text()
        text = LOOP.format(body=body)
        return cls(text=text, sha=hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


SCRIPTS = {verb: Script.read(verb) for verb in VERBS}


def queue(pipe: Any, verb: str, calls: Sequence[Call]) -> None:
    """Add a set of calls to a pipeline: two answers, of which the second is the list of theirs."""
    script = SCRIPTS[verb]
    # Ahead of its use in the same pipeline: a server that restarted a moment ago knows no
    # scripts, and asking it first would cost a round trip.
    pipe.execute_command("SCRIPT LOAD", script.text)
    keys = [key for call in calls for key in call[0]]
    args = [arg for call in calls for arg in call[1]]
    width, depth = (len(calls[0][0]), len(calls[0][1])) if calls else (0, 0)
    pipe.execute_command("EVALSHA", script.sha, len(keys), *keys, len(calls), width, depth, *args)
