"""The patterns of --tensor-type: std::regex's answers, but in bounded time and with Ctrl-C."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys

import pytest

from apex import _core

NAME = "blk.39.ffn_gate_exps.weight"
DOUBLING = r"(.*)*x.*(.*)*y$"  # each further character doubles what backtracking takes
PARTS = ["a", "b", "c", "1", r"\.", ".", "[ab]", "[^a]", "(a|b)", "(?:ab|a)", "(?:b?)"]
PARTS += [r"\d", r"\w", r"\b", "(?=a)", "(?!b)", r"\-", "a?b"]


def found(pattern: str, name: str) -> bool:
    return _core.first_match([pattern], [name]) == [0]


def test_answers_are_those_of_another_implementation() -> None:
    pick = random.Random(0)
    matches = 0
    for _ in range(1500):
        parts = [
            pick.choice(PARTS) + pick.choice(["", "", "", "", "*", "+", "?", "{1,2}", "*?"])
            for _ in range(pick.randint(1, 5))
        ]
        pattern = pick.choice(["", "", "", "^"]) + "".join(parts) + pick.choice(["", "", "", "$"])
        if re.search(r"\\b[*+?{]|\(\?[=!].\)[*+?{]", pattern):  # not the same in both languages
            continue
        for _ in range(4):
            name = "".join(pick.choices("abc.1-", k=pick.randint(0, 7)))
            expected = re.search(pattern, name) is not None
            assert found(pattern, name) == expected, (pattern, name)
            matches += expected
    assert matches > 500


def test_the_first_pattern_wins() -> None:
    names = ["blk.0.ffn_up.weight", "blk.1.ffn_up.weight", "output.weight"]
    patterns = [r"blk\.1\.", "ffn_(up|gate)", "^blk.1.ffn_up.weight$", "up"]
    assert _core.first_match(patterns, names) == [1, 0, -1]
    assert _core.first_match([], names) == [-1, -1, -1]
    assert _core.first_match([""], names) == [0, 0, 0]


def test_a_pattern_that_doubles_is_answered() -> None:
    code = (
        "from apex import _core; "
        f"print(_core.first_match([{DOUBLING!r}], [{NAME!r}, {'x' + NAME + 'y'!r}]))"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == "[-1, 0]\n"


def test_back_references_are_understood() -> None:
    assert found(r"(f)\1n", NAME)
    assert not found(r"(g)\1n", NAME)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "'(' is not a regular expression"),
        ("a{2,1}", "is not a regular expression"),
        ("(?=.*" * 8 + "q" + ")" * 8, "takes too long to match"),
        (r"(.*)*(.)\2(.*)*zz$", "takes too long to match"),
        ("a" * 2001, "a pattern has at most 2000 characters"),
        ("(" * 100_000, "a pattern has at most 2000 characters"),  # far too deep for the stack
    ],
    ids=["open", "braces", "lookaheads", "back reference", "long", "deep"],
)
def test_other_patterns_are_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        _core.first_match([pattern], [NAME])
    assert len(str(error.value)) < 300


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
def test_a_slow_search_can_be_interrupted() -> None:
    """An hour's worth of searches, and a signal after a tenth of a second."""
    code = (
        "import signal; from apex import _core\n"
        "signal.signal(signal.SIGALRM, signal.default_int_handler)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.1)\n"
        f"try: _core.first_match(['(.*)*' * 200 + '$='], [{NAME!r} * 2] * 1000)\n"
        "except KeyboardInterrupt: print('stopped')"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == "stopped\n"
