"""What a step is: one thing to do, what it depends on, and what it writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex import _core
from apex.errors import UsageError
from apex.files import OutputSet

__all__ = ["STAGES", "Advance", "Outcome", "Step", "digest_of", "step", "write_json"]

STAGES = (
    "fetch",
    "convert",
    "calibrate",
    "quantize",
    "verify",
    "evaluate",
    "caches",
    "report",
    "checksums",
    "card",
    "upload",
)

# What is done, how far it is, of how much, and what is known so far.
Advance = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Outcome:
    """What came of a step.

    Attributes:
        outputs: the files that it wrote.
        found: what it says of itself, for people.
    """

    outputs: Sequence[Path]
    found: Mapping[str, str]


@dataclass(frozen=True)
class Step:
    """One thing to do.

    Attributes:
        stage: one of ``STAGES``.
        name: unique, as in "evaluate i-quality".
        needs: what the outputs depend on, in words.
        outputs: the files that it writes, as far as that is known beforehand.
        bytes: what they take at most, where that is known.
        run: does it.
        scratch: those of the outputs that only later steps need; they are made again for one.
        uses: the scratch files of earlier steps that it reads.
    """

    stage: str
    name: str
    needs: Mapping[str, str]
    outputs: tuple[Path, ...]
    bytes: int
    run: Callable[[Advance], Outcome]
    scratch: tuple[Path, ...] = ()
    uses: tuple[Path, ...] = ()

    @property
    def key(self) -> str:
        """Stands for everything that the outputs depend on."""
        return hashlib.sha256(json.dumps(dict(self.needs), sort_keys=True).encode()).hexdigest()


def step(
    name: str,
    needs: Mapping[str, str | None],
    outputs: Sequence[Path],
    run: Callable[[Advance], Outcome],
    size: int = 0,
    *,
    scratch: Sequence[Path] = (),
    uses: Sequence[Path] = (),
) -> Step:
    """A step whose name begins with that of its stage. What is None does not matter to it."""
    known = {word: value for word, value in needs.items() if value is not None}
    stage = name.partition(" ")[0]
    known["apex"] = _core.__version__
    return Step(stage, name, known, (*outputs, *scratch), size, run, tuple(scratch), tuple(uses))


def digest_of(*paths: Path) -> str:
    """SHA-256 of the files' contents together. Raises UsageError where one cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise UsageError(
                f"{path} cannot be read: {error.strerror}.", "check the path"
            ) from None
    return digest.hexdigest()


def write_json(path: Path, data: Any) -> None:
    """Write data for people and machines, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with OutputSet([path]) as files:
        files.files[0].write((json.dumps(data, indent=1) + "\n").encode())
        files.commit()
