"""Collects second moments, in as many passes over the texts as the memory makes necessary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from apex import _core
from apex.calibration.options import MomentsPlan
from apex.calibration.readers import EMBEDDING, add_readers, readers_of
from apex.calibration.runner import Runner
from apex.errors import ImatrixError, RunError
from apex.files import MomentsContent, MomentsWriter, check_output, missing_bytes
from apex.inference import RunOptions, Tokens, available_memory

__all__ = ["OUTPUT", "Passes"]

#: The output matrix, which importance matrices leave out unless it is asked for.
OUTPUT = "output.weight"

# Tokens that show which matrix products there are.
_FEW_TOKENS = 64
# Where the user names no bound, and what may be allocated is not known.
_DEFAULT_MEMORY = 4 << 30


@dataclass(frozen=True)
class _Input:
    """What a tensor's inputs are like; ``same``: the tensor that has the same ones, or empty."""

    name: str
    columns: int
    matrices: int
    same: str

    @property
    def memory(self) -> int:
        return 0 if self.same else _core.Moments.bytes(self.columns, self.matrices)


class Passes:
    """The second moments of one run; a context manager, in which their file is written.

    A pass that was finished is in the partial file, and is not repeated by the next run of the
    same texts and settings. Sums do not depend on the passes: the file is the same.

    identity: of the texts and settings. max_memory: bytes that the sums may take; None for half of
    what is free.

    Attributes:
        plan: what will be done.
        left: the tensors of each pass that is still to be made, in order.
    """

    def __init__(
        self,
        path: Path,
        runner: Runner,
        chunks: Tokens,
        options: RunOptions,
        *,
        model_digest: str,
        datasets: Sequence[str],
        identity: str,
        max_memory: int | None,
    ) -> None:
        self._runner, self._chunks, self._options = runner, chunks, options
        self._inputs = self._learn()
        self._memory = max_memory or (available_memory() or 2 * _DEFAULT_MEMORY) // 2
        sizes = {i.name: (i.columns, i.matrices) for i in self._inputs if not i.same}
        readers = readers_of(runner.file)
        if readers:
            sizes[EMBEDDING] = readers[0][1].columns, 1
        self._content = MomentsContent(
            model_digest,
            datasets,
            len(chunks),
            options.context_length,
            sizes,
            {i.name: i.same for i in self._inputs if i.same},
            [EMBEDDING] if readers else [],
            identity,
        )
        self._path = path
        self._writer = MomentsWriter(path, self._content)
        self.left: list[list[str]] = []
        self.plan = MomentsPlan(path, self._content.bytes, 0, len(self._content.sizes))

    def _learn(self) -> list[_Input]:
        """Which matrix products there are, from a few tokens."""
        tokens = self._chunks.reshape(-1)[:_FEW_TOKENS].reshape(1, -1)
        probe = _core.Moments(set())
        size = tokens.size
        run = replace(self._options, context_length=size, batch_size=size, micro_batch_size=size)
        for _ in self._runner.groups(tokens, [probe], run=run, output=True):
            pass
        inputs = [_Input(*found) for found in probe.inputs()]
        if not inputs:
            raise ImatrixError(
                "The chunks are too short for second moments.", "give more text, or a larger batch"
            )
        return inputs

    def __enter__(self) -> Passes:
        """Open the file and divide what it lacks. Raises OutputError, RunError."""
        size = missing_bytes(self._path, self._content)
        check_output([self._path], overwrite=True, size=size)
        self._writer.__enter__()
        try:
            self.left = list(self._divided())
            self._read_weights()
        except BaseException:
            self._writer.__exit__(None, None, None)
            raise
        self.plan = replace(self.plan, passes=len(self.left))
        return self

    def _read_weights(self) -> None:
        """Write what comes from the model's weights, for which nothing is run."""
        for name in self._content.of_weights:
            if name not in self._writer.finished:
                sink = self.sink([name])
                add_readers(self._runner.file, sink)
                sums, rows = sink.entry(name)
                self._writer.write(name, 0, sums)
                self._writer.finish({name: rows})

    def _divided(self) -> Iterator[list[str]]:
        """The tensors that are not finished, in the order of the graph, as memory holds them."""
        names: list[str] = []
        taken = 0
        for entry in self._inputs:
            if entry.same or entry.name in self._writer.finished:
                continue
            if entry.memory > self._memory:
                raise RunError(
                    f"The second moments of {entry.name} take {entry.memory / 2**30:.2f} GiB, and "
                    f"{self._memory / 2**30:.2f} GiB are allowed.",
                    "give a larger --max-memory",
                )
            if names and taken + entry.memory > self._memory:
                yield names
                names, taken = [], 0
            names.append(entry.name)
            taken += entry.memory
        if names:
            yield names

    def make(self, passes: Sequence[Sequence[str]]) -> Iterator[int]:
        """Make some of the passes; yields how many chunks of all of them are done.

        Each stops after the last layer that it collects.
        """
        for index, names in enumerate(passes):
            sink = self.sink(names)
            output, until = OUTPUT in names, self._last(names)
            for done in self._runner.groups(self._chunks, [sink], output=output, until=until):
                if done == len(self._chunks):
                    self.write(sink, names)
                yield index * len(self._chunks) + done

    def sink(self, names: Sequence[str]) -> _core.Moments:
        """What sums the second moments of a pass."""
        return _core.Moments(set(names), self._options.threads)

    def _last(self, names: Sequence[str]) -> str:
        """After which tensor the rest of the model is not run; empty where all of it is.

        Where there is a GPU, libllama cuts the graph into parts, and would run those that follow
        with what the stopped one has not computed.
        """
        layer = names[-1].split(".")[1] if names[-1].startswith("blk.") else ""
        is_early = layer != "" and int(layer) < self._runner.model.layers
        return names[-1] if is_early and not _core.gpu_devices() else ""

    def write(self, sink: _core.Moments, names: Sequence[str]) -> None:
        """Put a pass that is done into the file. Raises RunError, OutputError."""
        known = {entry.name: entry for entry in self._inputs}
        seen = {found[0]: _Input(*found) for found in sink.inputs()}
        if any(known.get(name) != entry for name, entry in seen.items()):
            raise RunError("The matrix products of this model differ from batch to batch.")
        rows = {name: np.zeros(known[name].matrices, np.int64) for name in names}
        for name in names:
            if name in seen:
                sums, rows[name] = sink.entry(name)
                self._writer.write(name, 0, sums)
        self._writer.finish(rows)

    def commit(self) -> None:
        """Give the file its name. Raises OutputError."""
        self._writer.commit()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file; what was finished stays."""
        self._writer.__exit__(kind, error, traceback)
