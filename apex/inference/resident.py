"""A model in memory whose weights can be changed and given back, and what the changes do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.errors import RunError
from apex.inference.batches import Tokens, batches
from apex.inference.failures import running
from apex.inference.memory import available_memory
from apex.inference.models import load_model, make_context
from apex.inference.options import RunOptions
from apex.sources import ModelFile

__all__ = ["Divergences", "ResidentModel"]

# Of each position, the tokens that are kept where all of them would take too much memory.
_TOP = 256
# The share of the free memory that may be taken by what the unchanged model said.
_REFERENCE_SHARE = 0.25


class ResidentModel:
    """A model whose tensors can be replaced, also by other types of at most their size.

    It then computes as one that was loaded from a file with these tensors, so that what a file
    would do is known before it is written.

    Attributes:
        file: the model's file.
        model: the model.
        options: how it is run.
    """

    def __init__(self, file: ModelFile, options: RunOptions) -> None:
        """Load it into memory. Raises ModelFileError, and RunError where it does not fit."""
        available = available_memory()
        if options.gpu_layers == 0 and available is not None and file.bytes > available:
            raise RunError(
                f"{file.path} has {file.bytes / 2**30:.1f} GiB of weights, and "
                f"{available / 2**30:.1f} GiB of memory are free.",
                "give a smaller file of the same model to run in its place, such as a Q8_0 one, "
                "with --resident",
            )
        self.file, self.model = load_model(file, gpu_layers=options.gpu_layers, replaceable=True)
        self.options = options
        self._weights = _core.Weights(self.model)
        self._tensors = {tensor.name: tensor for tensor in file.tensors}
        self._changed: set[str] = set()
        self._context: _core.Context | None = None

    @property
    def context(self) -> _core.Context:
        """What runs it as it is now. Raises RunError."""
        if self._context is None:
            self._context = make_context(self.file, self.model, self.options)
        return self._context

    def holds(self, name: str) -> bool:
        """Whether the tensor was loaded; those of a multi-token-prediction head are not."""
        try:
            self._weights.type(name)
        except ValueError:
            return False
        return True

    def type(self, name: str) -> str:
        """The type of a tensor in the file."""
        return self._tensors[name].type

    def room(self, name: str) -> int:
        """The most bytes that a tensor can be replaced by."""
        return self._tensors[name].bytes

    def replace(self, name: str, type_name: str, data: npt.NDArray[np.uint8]) -> None:
        """Make a tensor be of a type, with these bytes, at most ``room`` of them."""
        if type_name != self._weights.type(name):
            self._context = None  # a graph that is kept knows types
        self._changed.add(name)
        self._weights.replace(name, type_name, data)

    def restore(self, names: Iterable[str] | None = None) -> None:
        """Give back what the file has, bit for bit. Raises ModelFileError, RunError.

        names: of some tensors; None for all that were replaced.
        """
        changed = self._changed if names is None else self._changed.intersection(names)
        for name in sorted(changed):
            tensor = self._tensors[name]
            data = np.empty(tensor.bytes, np.uint8)
            self.file.read(tensor, 0, data.data)
            self.replace(name, tensor.type, data)
            if not np.array_equal(self._weights.read(name), data):
                raise RunError(f"The weights of {name} could not be restored.", "run it again")
        self._changed.difference_update(changed)


class Divergences:
    """How far a changed model is from what it was, at the positions of some chunks.

    Attributes:
        chunks: int32 (chunks, context length), the tokens.
        is_exact: whether whole distributions are compared; else, of each position, the 256 most
            likely tokens, and all others together.
    """

    def __init__(
        self,
        resident: ResidentModel,
        chunks: Tokens,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Run the unchanged model, and keep what it says of the second half of every chunk.

        progress: called with the number of chunks that were run. Raises RunError, DataError.
        """
        self._resident = resident
        self.chunks = chunks
        self._first = resident.options.context_length // 2
        vocabulary = resident.model.vocabulary_size
        positions = len(chunks) * (resident.options.context_length - self._first)
        available = available_memory()
        whole = positions * _core.Reference.row_bytes(vocabulary, 0)
        self.is_exact = available is None or whole <= _REFERENCE_SHARE * available
        self._reference = _core.Reference(vocabulary, 0 if self.is_exact else _TOP)
        self._go(progress, range(len(chunks)), is_reference=True)

    def measure(
        self,
        limit: int | None = None,
        progress: Callable[[int], None] | None = None,
        *,
        start: int = 0,
    ) -> npt.NDArray[np.float64]:
        """float64 (chunks, positions): KL divergence in nats of the model as it is now.

        start, limit: the first chunk, and the one before which to stop; None for all. Raises
        RunError, DataError.
        """
        stop = len(self.chunks) if limit is None else min(limit, len(self.chunks))
        return self._go(progress, range(start, stop)).reshape(max(stop - start, 0), -1)

    def _go(
        self, progress: Callable[[int], None] | None, which: range, *, is_reference: bool = False
    ) -> npt.NDArray[np.float64]:
        resident, context = self._resident, self._resident.context
        options, found = resident.options, [np.empty(0)]
        place = which.start * (options.context_length - self._first)
        chunks = self.chunks[which.start : which.stop]
        with running(Path(resident.file.path)):
            for batch in batches(chunks, options, resident.model, first_output=self._first):
                if batch.begins:
                    context.clear()
                context.decode(batch.tokens, batch.positions, batch.sequences, batch.outputs)
                rows = np.arange(np.count_nonzero(batch.outputs))
                if is_reference:
                    self._reference.add(context, rows, options.threads)
                else:
                    found.append(self._reference.diverge(place, context, rows, options.threads))
                place += len(rows)
                if progress is not None and batch.positions[-1] == options.context_length - 1:
                    progress(batch.chunks.stop)
        values = np.concatenate(found)
        if not np.isfinite(values).all():
            raise RunError(
                f"{resident.file.path} gives probabilities that are not finite.",
                "the model is damaged, or its activations overflow",
            )
        return values
