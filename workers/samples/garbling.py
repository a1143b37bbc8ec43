"""How a bad agent spoils a good outline, each time in a way that HTTP does not show."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping

Outline = Mapping[str, list[str]]


def missing(answer: Outline, rng: random.Random) -> str:
    """One name has been overlooked (an outline without any gets an invented one)."""
    parts = [part for part in answer if answer[part]]
    if not parts:
        return invented(answer, rng)
    part = rng.choice(parts)
    names = list(answer[part])
    names.pop(rng.randrange(len(names)))
    return json.dumps({**answer, part: names})


def invented(answer: Outline, rng: random.Random) -> str:
    """A function that the source does not have."""
    names = [*answer["functions"], f"zz_helper_{rng.randrange(1000)}"]
    return json.dumps({**answer, "functions": names})


def truncated(answer: Outline, rng: random.Random) -> str:
    """The text breaks off, as at a token limit."""
    text = json.dumps(answer)
    return text[: rng.randrange(1, len(text))]


def prose(answer: Outline, _rng: random.Random) -> str:
    """Words about the answer instead of the answer."""
    return f"Sure! Here is the outline: the module has {len(answer['functions'])} functions."


def mislabelled(answer: Outline, _rng: random.Random) -> str:
    """The right lists under the wrong name."""
    return json.dumps({"methods" if part == "functions" else part: answer[part] for part in answer})


WAYS: tuple[Callable[[Outline, random.Random], str], ...] = (
    missing,
    invented,
    truncated,
    prose,
    mislabelled,
)


def garble(answer: Outline, rng: random.Random) -> str:
    """A wrong text in place of `answer`, in one of WAYS."""
    return rng.choice(WAYS)(answer, rng)
