"""Runs a model, and its multi-token-prediction head, over chunks and gives sinks what they see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from apex import _core
from apex.calibration.options import CollectOptions
from apex.errors import RunError
from apex.inference import Batch, RunOptions, Tokens, batches, load_model, make_context, running
from apex.sources import ModelFile

__all__ = ["Runner"]


class Runner:
    """A model that is loaded to be run over chunks.

    Attributes:
        file, model: what is run.
        has_mtp: whether the multi-token-prediction head can be run.
        notes: what the user should know.
    """

    def __init__(self, file: ModelFile, options: CollectOptions) -> None:
        self.file = file
        self.notes: list[str] = []
        self._options = options
        self.model, self.has_mtp = self._load()

    def _load(self) -> tuple[_core.Model, bool]:
        layers = self._options.run.gpu_layers
        if self._options.mtp:
            try:
                _, model = load_model(self.file, mtp=True, gpu_layers=layers)
                return model, model.mtp_layers > 0
            except RunError as error:  # of the head alone, or of the whole model
                self.notes.append(_without_head(error))
        _, model = load_model(self.file, gpu_layers=layers)
        return model, False

    def groups(
        self,
        chunks: Tokens,
        sinks: Sequence[_core.ActivationSink],
        *,
        run: RunOptions | None = None,
        output: bool = False,
        until: str = "",
    ) -> Iterator[int]:
        """Run chunks; yields after each group how many are done.

        run: how, where not as the options say. output: whether the sinks get the inputs of the
        output matrix too. until: a tensor of the trunk after which the rest, the head too, is left
        out. Raises RunError.
        """
        run = run or self._options.run
        with running(self.file.path):
            trunk = make_context(
                self.file,
                self.model,
                run,
                collect=sinks,
                collect_output=output,
                collect_until=until,
            )
            head = self._head(run, sinks) if self.has_mtp and not until else None
            if head is not None:
                trunk.keep_hidden_states()
            for batch in batches(chunks, run, self.model, first_output=0):
                self._run_batch(batch, trunk, head)
                if batch.positions[-1] == run.context_length - 1:
                    yield batch.chunks.stop

    def _head(self, run: RunOptions, sinks: Sequence[_core.ActivationSink]) -> _core.Context | None:
        try:
            return make_context(self.file, self.model, run, mtp=True, collect=sinks)
        except RunError as error:
            self.has_mtp = False
            self.notes.append(_without_head(error))
            return None

    def _run_batch(self, batch: Batch, trunk: _core.Context, head: _core.Context | None) -> None:
        if batch.begins:
            trunk.clear()
        where = (batch.tokens, batch.positions, batch.sequences)
        trunk.decode(*where, batch.outputs)
        if head is None:
            return
        if batch.begins:
            head.clear()
        # Everything must be computed, and that is what asking for an output means.
        if not head.decode_mtp(*where, batch.outputs, trunk) and self.has_mtp:
            self.has_mtp = False
            self.notes.append(_without_head(RunError("libllama does not run it.")))


def _without_head(error: RunError) -> str:
    return f"the multi-token-prediction head gets no data: {error.message.rstrip('.')}"
