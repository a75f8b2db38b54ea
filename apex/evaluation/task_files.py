"""Files of tasks: HellaSwag, Winogrande and multiple choice, as llama-perplexity takes them.

Which tasks are drawn, and in which order, is as llama-perplexity does it.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from apex import _core
from apex.errors import UsageError
from apex.inference import read_bytes, read_text, require_utf8

__all__ = ["KINDS", "Choice", "Tasks", "load_tasks"]

KINDS = ("hellaswag", "winogrande", "multiple-choice")


@dataclass(frozen=True)
class Choice:
    """A task: a context, its continuations, and which of them are right.

    Attributes:
        texts: the whole text of each continuation, context included.
        contexts: for Winogrande, the texts up to and including the choice.
        correct: the indices of the right continuations.
    """

    texts: tuple[bytes, ...]
    correct: frozenset[int]
    contexts: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Tasks:
    """Tasks of a file, drawn and in order.

    Attributes:
        kind: hellaswag, winogrande or multiple-choice.
        path: of the file.
        choices: the tasks.
        available: how many the file has.
        unreadable: lines that were left out, because they do not hold a task.
    """

    kind: str
    path: Path
    choices: tuple[Choice, ...]
    available: int
    unreadable: int = 0


def load_tasks(kind: str, path: str | os.PathLike[str], wanted: int | None = None) -> Tasks:
    """Read a file of tasks in the form that llama-perplexity takes. Raises UsageError.

    wanted: how many; None for llama-perplexity's default: 400 for HellaSwag, all of the others.
    """
    file = Path(path)
    if wanted is not None and wanted < 1:
        raise UsageError("The number of tasks must be at least 1.")
    unreadable = 0
    if kind == "hellaswag":
        lines = _lines(file)
        count = len(lines) // 6
        order = _core.draw_hellaswag(count, 400 if wanted is None else wanted)
        choices = [_hellaswag(file, lines, index) for index in order]
    elif kind == "winogrande":
        rows, unreadable = _winogrande(file)
        count = len(rows)
        choices = [rows[index] for index in _core.draw_tasks(count, wanted or 0)]
    elif kind == "multiple-choice":
        data = read_bytes(file)
        count, places = _places(file, data)
        choices = []
        for index in _core.draw_tasks(count, wanted or 0):
            choices.append(_multiple_choice(file, data, places[index]))
    else:
        raise UsageError(f"There are no tasks of kind {kind!r}.", f"choose from {', '.join(KINDS)}")
    if not choices:
        raise UsageError(f"{file} does not hold {kind} tasks.", "is it the right file?")
    return Tasks(kind, file, tuple(choices), count, unreadable)


def _lines(file: Path) -> list[bytes]:
    lines = read_text(file).removesuffix(b"\n").split(b"\n")
    if len(lines) % 6:
        raise UsageError(
            f"{file} has {len(lines)} lines, which is not a multiple of six.",
            "a HellaSwag task has six: the context, the number of the right ending, four endings",
        )
    return lines


def _hellaswag(file: Path, lines: Sequence[bytes], index: int) -> Choice:
    context, label, *endings = lines[6 * index : 6 * index + 6]
    match = re.match(rb"\s*(\d)", label)
    if match is None or int(match[1]) > 3:
        raise UsageError(f"{file}: line {6 * index + 2} is not the number of an ending, 0 to 3.")
    texts = tuple(context + b" " + ending for ending in endings)
    return Choice(texts, frozenset({int(match[1])}))


def _winogrande(file: Path) -> tuple[list[Choice], int]:
    """Lines of ``index,sentence,choice,choice,answer``; and how many cannot be read as such.

    As there, those are left out, and so is the last line, whose line break is taken off with that
    of the file.
    """
    lines = read_text(file).split(b"\n")[:-1]
    read = [_winogrande_line(line) for line in lines]
    choices = [choice for choice in read if choice is not None]
    return choices, len(lines) - len(choices)


def _winogrande_line(line: bytes) -> Choice | None:
    commas, quoted = [], False
    for place, char in enumerate(line):
        if char == ord('"'):
            quoted = not quoted
        elif char == ord(",") and not quoted:
            commas.append(place)
            if len(commas) == 4:
                break
    if len(commas) < 4:
        return None
    sentence = line[commas[0] + 1 : commas[1]]
    if sentence.startswith(b'"'):
        sentence = sentence[1:-1]
    before, blank, after = sentence.partition(b"_")
    answer = re.match(rb"\s*([12])(?!\d)", line[commas[3] + 1 :])
    if not blank or answer is None:
        return None
    words = (line[commas[1] + 1 : commas[2]], line[commas[2] + 1 : commas[3]])
    return Choice(
        tuple(before + word + after for word in words),
        frozenset({int(answer[1]) - 1}),
        tuple(before + word for word in words),
    )


def _places(file: Path, data: bytes) -> tuple[int, list[int]]:
    try:
        (count,) = struct.unpack_from("<I", data, 0)
        if not 0 < count <= len(data) // 4:
            raise ValueError
        relative = struct.unpack_from(f"<{count}I", data, 4)
    except (struct.error, ValueError):
        raise UsageError(
            f"{file} does not hold multiple-choice tasks.",
            "give a binary file as llama-perplexity --multiple-choice takes it",
        ) from None
    return count, list(relative)


def _multiple_choice(file: Path, data: bytes, place: int) -> Choice:
    """Question, then answers and labels, twice; the second, with several right ones, is unused."""

    def number() -> int:
        nonlocal place
        (value,) = struct.unpack_from("<I", data, place)
        place += 4
        return int(value)

    def text() -> bytes:
        nonlocal place
        size = number()
        if size > len(data) - place:
            raise ValueError
        value = data[place : place + size]
        require_utf8(value, str(file), offset=place)
        place += size
        return value

    try:
        question = text()
        count = number()
        if not question or not 0 < count <= 100:
            raise ValueError
        answers = [text() for _ in range(count)]
        labels = struct.unpack_from(f"<{count}i", data, place)
        if not all(answers):
            raise ValueError
    except (struct.error, ValueError):
        raise UsageError(f"{file} is damaged: a task cannot be read.", "fetch it again") from None
    correct = frozenset(index for index, label in enumerate(labels) if label == 1)
    return Choice(tuple(question + b" " + answer for answer in answers), correct)
