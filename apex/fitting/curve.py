"""The frontier of a model's file as data: the best predicted loss at every size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apex.allocation import Frontier
from apex.fitting.choices import bits_of, padded
from apex.fitting.result import Fit
from apex.planning import PlannedTensor
from apex.policy import Layout, layer_of
from apex.sources import ModelFile

__all__ = ["curve"]


def curve(fit: Fit, model: ModelFile) -> dict[str, Any]:
    """The frontier, as ``reporting.frontier_plot`` and ``frontier_page`` draw it.

    Keys: ``tensors`` that can be chosen, with their bytes as each of ``types`` or None; ``start``,
    the smallest file; ``steps`` from there, each of which is (tensor, type, bytes, predicted KL in
    nats) of the whole file afterwards; ``knees``, indexes of steps; ``marks``, the tiers and file
    types; ``fixed_bytes``, of the file beside the tensors.
    """
    tensors = {tensor.name: tensor for tensor in fit.plan.tensors}
    frontier = Frontier(fit.choices.items)
    writer = _Steps(fit, frontier)
    steps = list(writer.steps())
    return {
        "format": "apex-frontier",
        "version": 1,
        "model": {
            "name": model.path.name.removesuffix(".gguf"),
            "architecture": model.architecture,
            "weights": model.weights,
            "source_bytes": model.bytes,
            "layers": Layout.from_metadata(model.metadata).trunk_layers,
        },
        "fixed_bytes": fit.choices.fixed_bytes,
        "types": writer.types,
        "tensors": [_tensor(tensors[name], fit, writer.types) for name in writer.tensors],
        "start": writer.start,
        "steps": steps,
        "knees": [writer.ends[knee] for knee in frontier.knees],
        "marks": [
            {
                "name": rival.name,
                "kind": rival.kind,
                "bytes": rival.plan.file_bytes,
                "kl": fit.kl(rival.loss),
            }
            for rival in fit.rivals
            if rival.loss is not None
        ],
        "measured": [],
    }


def _tensor(tensor: PlannedTensor, fit: Fit, types: list[str]) -> dict[str, Any]:
    losses, alignment = fit.losses[tensor.name], fit.plan.files[0].alignment
    return {
        "name": tensor.name,
        "layer": layer_of(tensor.name),
        "kind": fit.sensitivity.group_of[tensor.name].kind,
        "weights": tensor.source.weights,
        "bytes": [
            padded(name, tensor.source.shape, alignment) if name in losses else None
            for name in types
        ],
    }


class _Steps:
    """The steps of a frontier, tensor by tensor.

    Attributes:
        types: the names of all types, from the smallest.
        tensors: the names of all tensors that are chosen.
        start: the smallest file.
        ends: by step of the frontier, the number of its last tensor's step.
    """

    def __init__(self, fit: Fit, frontier: Frontier) -> None:
        items = fit.choices.items
        self._fit, self._frontier = fit, frontier
        self._members = [fit.choices.members[item.name] for item in items]
        names = {choice.type for item in items for choice in item.choices}
        self.types = sorted(names, key=lambda name: (bits_of(name), name))
        self._number = {name: number for number, name in enumerate(self.types)}
        self.tensors = [name for members in self._members for name in members]
        self._index = {name: number for number, name in enumerate(self.tensors)}
        self._shape = {tensor.name: tensor.source.shape for tensor in fit.plan.tensors}
        # What pinned tensors cost, which is in the predictions of whole files.
        self._pinned = max(0.0, (fit.loss or fit.solution.loss) - fit.solution.loss)
        chosen = fit.choices.types(frontier.smallest.choices)
        self._chosen = dict(chosen)
        self.start = {
            "bytes": fit.choices.fixed_bytes + frontier.smallest.bytes,
            "kl": fit.kl(self._pinned + frontier.smallest.loss),
            "types": [self._number[chosen[name]] for name in self.tensors],
        }
        self.ends: list[int] = []

    def steps(self) -> Iterator[list[Any]]:
        """(tensor, type, bytes, KL) after each."""
        number = -1
        size, loss = self._frontier.smallest.bytes, self._frontier.smallest.loss
        for step in self._frontier.steps:
            members = self._members[step.item]
            for name in members:
                number += 1
                size += self._bytes(name, step.choice.type) - self._bytes(name, self._chosen[name])
                losses = self._fit.losses[name]
                loss += losses[step.choice.type] - losses[self._chosen[name]]
                self._chosen[name] = step.choice.type
                if name == members[-1]:
                    size, loss = step.bytes, step.loss  # rounded once
                total = self._fit.choices.fixed_bytes + size
                yield [
                    self._index[name],
                    self._number[step.choice.type],
                    total,
                    self._fit.kl(self._pinned + max(loss, 0.0)),
                ]
            self.ends.append(number)

    def _bytes(self, name: str, type_name: str) -> int:
        return padded(type_name, self._shape[name], self._fit.plan.files[0].alignment)
