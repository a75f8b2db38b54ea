"""Texts to calibrate with: files of the user's, and the built-in diverse set."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.errors import UsageError
from apex.inference import Tokens, read_text, require_utf8

__all__ = ["BUILT_IN", "Document", "Text", "built_in", "built_in_text", "mixed", "read_texts"]

# What each domain is.
BUILT_IN = {
    "agents": "traces of agents at work: plans, commands, their output, repairs",
    "chat": "multi-turn chat in English",
    "code-1": "Python, TypeScript, Rust, Go, SQL, shell, web; questions about code",
    "code-2": "C, C++, CUDA, Java, Haskell, configuration, build files; questions about code",
    "languages": "multi-turn chat in over twenty languages",
    "prose": "encyclopedia, news, fiction, letters, contracts, recipes; a quarter not in English",
    "reasoning": "step-by-step reasoning with mathematics",
    "tools": "tool calls with JSON schemas",
}

_BETWEEN = "%%%%"
_ROLES = {f"%%{role}": role for role in ("system", "user", "assistant", "tool")}


@dataclass(frozen=True)
class Text:
    """A text to calibrate with.

    Attributes:
        name: as it is shown, and stored among the data sets of the importance matrix.
        content: UTF-8; anything else raises UsageError.
        weight: its share of the chunks, relative to the other texts'.
        parse_special: whether names of special tokens in it become those tokens.
        file: where it was read, if it was.
    """

    name: str
    content: bytes
    weight: float = 1.0
    parse_special: bool = False
    file: Path | None = None

    def __post_init__(self) -> None:
        require_utf8(self.content, self.name)


@dataclass(frozen=True)
class Document:
    """A document of the built-in set: a chat of (role, content) messages, or plain text.

    Plain text is one message of the empty role.
    """

    messages: tuple[tuple[str, str], ...]

    @property
    def is_chat(self) -> bool:
        """Whether it consists of turns."""
        return self.messages[0][0] != ""


def read_texts(
    files: Sequence[str | os.PathLike[str]], *, parse_special: bool = False
) -> tuple[Text, ...]:
    """Texts from ``FILE`` or ``FILE=WEIGHT``. Raises UsageError."""
    texts = []
    for file in files:
        given = os.fspath(file)
        path, equals, number = given.rpartition("=")
        weight = 1.0
        if equals and not os.path.exists(given):  # noqa: PTH110 - a name may hold anything
            try:
                weight = float(number)
            except ValueError:
                path = given
        else:
            path = given
        if not 0 < weight < float("inf"):
            raise UsageError(f"{given}: the weight must be a number above 0.", "write FILE=2")
        texts.append(Text(path, read_text(path), weight, parse_special, Path(path)))
    return tuple(texts)


@cache
def documents(domain: str) -> tuple[Document, ...]:
    """The documents of a domain of the built-in set."""
    source = resources.files("apex.calibration") / "texts" / f"{domain}.txt"
    lines = source.read_text(encoding="utf-8").splitlines()
    return tuple(_parse(lines))


def _parse(lines: Sequence[str]) -> Iterator[Document]:
    messages: list[tuple[str, list[str]]] = [("", [])]
    for line in (*lines, _BETWEEN):
        if line == _BETWEEN:
            parts = ((role, "\n".join(body).strip("\n")) for role, body in messages)
            filled = tuple((role, body) for role, body in parts if body)
            if filled:
                yield Document(filled)
            messages = [("", [])]
        elif line in _ROLES:
            messages.append((_ROLES[line], []))
        else:
            messages[-1][1].append(line)


def built_in_text(domain: str, model: _core.Model | None = None) -> str:
    """A domain as one text, chats as the model's own template writes them.

    Without a model, or where libllama does not know its template, chats are written as ChatML.
    Raises UsageError for an unknown domain.
    """
    if domain not in BUILT_IN:
        raise UsageError(
            f"There is no built-in text {domain!r}.", f"choose from {', '.join(BUILT_IN)}"
        )
    return "\n\n".join(_render(document, model) for document in documents(domain)) + "\n"


def built_in(model: _core.Model, domains: Sequence[str] = ()) -> tuple[Text, ...]:
    """The built-in set, or some domains of it, for a model. Raises UsageError."""
    return tuple(
        Text(f"apex:{domain}", built_in_text(domain, model).encode(), parse_special=True)
        for domain in domains or BUILT_IN
    )


def _render(document: Document, model: _core.Model | None) -> str:
    if not document.is_chat:
        return document.messages[0][1]
    rendered = model.render_chat(document.messages) if model is not None else None
    if rendered is not None:
        return rendered.rstrip("\n")
    return "\n".join(
        f"<|im_start|>{role}\n{content}<|im_end|>" for role, content in document.messages
    )


def mixed(
    parts: Sequence[Tokens], weights: Sequence[float], limit: int | None
) -> tuple[Tokens, npt.NDArray[np.int64]]:
    """Interleave the chunks of several texts by their weights.

    Every text keeps its order. The next chunk always comes from the text that is furthest behind
    its share; a text that has run out is passed over. Returns the chunks, and of which text each
    is.
    """
    left = [len(part) for part in parts]
    total = min(sum(left), limit if limit is not None else sum(left))
    taken = [0] * len(parts)
    origins = []
    for _ in range(total):
        candidates = [index for index, part in enumerate(parts) if taken[index] < len(part)]
        chosen = min(candidates, key=lambda index: (taken[index] + 1) / weights[index])
        origins.append(chosen)
        taken[chosen] += 1
    which = np.array(origins, np.int64)
    if not origins:
        return np.empty((0, 0), np.int32), which
    places = [0] * len(parts)
    rows = []
    for index in origins:
        rows.append(parts[index][places[index]])
        places[index] += 1
    return np.stack(rows), which
