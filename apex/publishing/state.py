"""What was done already: one file in the folder that people can read.

Of every step it says what the step depends on and what it wrote. A step is written down before it
begins and once more when it is done, so that after a kill what lies there is known as ours.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex.errors import OutputError, UsageError
from apex.files import OutputSet

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["STATE_FILE", "State", "locked"]

STATE_FILE = "publish.json"
FORMAT = "apex publication 1"


@dataclass(frozen=True)
class _Written:
    """A file as it was when a step had written it."""

    bytes: int
    time: int

    @classmethod
    def of(cls, path: Path) -> _Written | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return cls(found.st_size, found.st_mtime_ns)


class State:
    """The steps that were begun and done in a folder."""

    def __init__(self, folder: Path) -> None:
        """Read the folder's file, if there is one. Raises UsageError where it is not ours."""
        self.folder = folder
        self._steps: dict[str, dict[str, Any]] = {}
        path = folder / STATE_FILE
        try:
            data = json.loads(path.read_text("utf-8"))
            if data["format"] != FORMAT:
                raise ValueError
            self._steps = dict(data["steps"])
        except FileNotFoundError:
            pass
        except OSError as error:
            raise UsageError(
                f"{path} cannot be read: {error.strerror}.", "check the path"
            ) from None
        except (ValueError, KeyError, TypeError):
            raise UsageError(
                f"{path} does not say what was published.",
                "remove it to begin anew; finished files are found again",
            ) from None

    def reason(self, step: str, needs: Mapping[str, str], outputs: Sequence[Path]) -> str | None:
        """Why a step has to run; None where what it wrote is there and up to date."""
        known = self._steps.get(step)
        if known is None:
            return "not made yet"
        if not known.get("done"):
            return "was interrupted"
        before = known["needs"]
        for word in sorted({*before, *needs}):
            if before.get(word) != needs.get(word):
                return _change(word, before.get(word), needs.get(word))
        for path in outputs:
            name = path.relative_to(self.folder).as_posix()
            written, found = known["outputs"].get(name), _Written.of(path)
            if found is None:
                return f"{name} is missing"
            if written != [found.bytes, found.time]:
                return f"{name} has changed since"
        return None

    def is_ours(self, path: Path) -> bool:
        """Whether a file is as a step left it, or a step had begun to write it."""
        name, found = path.relative_to(self.folder).as_posix(), _Written.of(path)
        for step in self._steps.values():
            written = step["outputs"].get(name)
            if written is not None and found is not None and written == [found.bytes, found.time]:
                return True
            if name in step["outputs"] and not step["done"]:
                return True
        return False

    def begin(self, step: str, needs: Mapping[str, str], outputs: Sequence[Path]) -> None:
        """Write down that a step begins, and what it will write."""
        names = [path.relative_to(self.folder).as_posix() for path in outputs]
        before = self._steps.get(step, {}).get("outputs", {})
        self._steps[step] = {
            "done": False,
            "needs": dict(needs),
            "outputs": {**before, **dict.fromkeys(names)},
        }
        self._write()

    def finish(
        self, step: str, outputs: Sequence[Path], seconds: float, found: Mapping[str, str]
    ) -> None:
        """Write down that a step is done. found: what it says of itself, for people."""
        written = {path.relative_to(self.folder).as_posix(): _Written.of(path) for path in outputs}
        missing = [name for name, state in written.items() if state is None]
        if missing:
            raise OutputError(f"{self.folder / missing[0]} vanished.", "run the same command again")
        self._steps[step] |= {
            "done": True,
            "seconds": round(seconds, 1),
            "outputs": {name: [s.bytes, s.time] for name, s in written.items() if s is not None},
            "found": dict(found),
        }
        self._write()

    def seconds(self, step: str) -> float | None:
        """How long a step took when it was last done."""
        value = self._steps.get(step, {}).get("seconds")
        return None if value is None else float(value)

    def _write(self) -> None:
        data = {"format": FORMAT, "steps": self._steps}
        with OutputSet([self.folder / STATE_FILE]) as files:
            files.files[0].write((json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode())
            files.commit()


def _change(word: str, before: str | None, now: str | None) -> str:
    if before is None:
        return f"{word} is new"
    if now is None:
        return f"{word} is gone"
    if max(len(before), len(now)) > 40:  # digests say nothing to a reader
        return f"{word} has changed"
    return f"{word} was {before} and is {now}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Two runs on one folder exclude each other. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if fcntl is None:
            yield
            return
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"{folder} cannot be used: {error.strerror}.", "check the path") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(
                f"Another run of apex publish is at work in {folder}.", "wait until it has ended"
            ) from None
        yield
    finally:
        os.close(handle)
