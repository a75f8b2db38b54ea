"""The types that were chosen for a size, a quality or a GPU, and what there is beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from apex.fitting.choices import Choices, keeps
from apex.fitting.memory import GpuRoom
from apex.fitting.rivals import Rival, predicted
from apex.fitting.solving import Solution
from apex.fitting.wishes import Constraints
from apex.planning import Plan
from apex.sensitivity import Calibration, Sensitivity, calibration_of

__all__ = ["Fit"]


@dataclass(frozen=True)
class Fit:
    """The types that were chosen, and beside what.

    Attributes:
        plan: the plan of the fitted file; complete, and of at most the budget.
        solution: what was chosen of ``choices``, with its sum of losses.
        budget: bytes that were asked for; None where a quality was, or a GPU.
        choices: what there was to choose.
        losses: by tensor and type, what it costs; their sum becomes a KL divergence by ``kl``.
        rivals: the tiers and file types, the smallest first.
        constraints: what could be chosen.
        sensitivity: what was measured of the model.
        room: of the GPU that was asked for, or None.
    """

    plan: Plan
    solution: Solution
    budget: int | None
    choices: Choices
    losses: Mapping[str, Mapping[str, float]]
    rivals: tuple[Rival, ...]
    constraints: Constraints
    sensitivity: Sensitivity
    room: GpuRoom | None = None

    @property
    def types(self) -> dict[str, str]:
        """By name, the types of the tensors that were chosen."""
        return self.choices.types(self.solution.choices)

    @cached_property
    def loss(self) -> float | None:
        """The sum of the losses of ``plan``; None where one of a pinned type is not known."""
        return predicted(self.plan, self.losses)

    @property
    def predicted(self) -> float | None:
        """The predicted KL divergence of ``plan`` in nats; None where that is not known."""
        return self.kl(self.loss)

    @property
    def bound(self) -> float | None:
        """No choice of types within the budget can be predicted to have less than this, in nats."""
        if self.loss is None:
            return None
        return self.kl(max(0.0, self.loss - self.solution.loss + self.solution.bound))

    def kl(self, loss: float | None) -> float | None:
        """The predicted KL divergence in nats of a file with this sum of losses."""
        return None if loss is None else self._calibration.kl(loss)

    @cached_property
    def _calibration(self) -> Calibration:
        return calibration_of(self.sensitivity)

    @cached_property
    def better_rival(self) -> Rival | None:
        """The best rival that could take the fitted file's place, if it is predicted to be better.

        It is not larger than what was asked for, lies within the GPU's memory, and keeps the
        constraints.
        """
        if self.loss is None:
            return None
        able = [
            (rival.loss, number)
            for number, rival in enumerate(self.rivals)
            if rival.loss is not None and rival.loss < self.loss and self._could_be(rival.plan)
        ]
        return self.rivals[min(able)[1]] if able else None

    @property
    def best(self) -> Plan:
        """What is to be written: the fitted plan, or the better rival's under the same name."""
        rival, ours = self.better_rival, self.predicted
        theirs = None if rival is None else self.kl(rival.loss)
        if rival is None or theirs is None or ours is None:
            return self.plan
        return self.in_place(rival, "predicted", theirs, ours)

    def in_place(self, rival: Rival, how: str, theirs: float, ours: float) -> Plan:
        """A rival's plan under the name of the fitted one, with a note that says why.

        how: its KL divergence is known. theirs, ours: that of the rival, and of the fitted types.
        """
        note = (
            f"{rival.name} is taken as it is, since its {how} KL divergence is {theirs:.3g} and "
            f"that of the fitted types {ours:.3g}."
        )
        return replace(
            rival.plan,
            tier=self.plan.tier,
            notes=(*dict.fromkeys((*rival.plan.notes, *self.plan.notes)), note),
            inputs=self.plan.inputs,
        )

    @property
    def challengers(self) -> tuple[Rival, ...]:
        """The rivals that the fitted file has to beat.

        They are the largest tier and the largest file type that could take its place, and the one
        that is predicted to be the best of all that could.
        """
        able = [rival for rival in self.rivals if self._could_be(rival.plan)]
        kinds = ("tier", "file type")
        found = [[rival for rival in able if rival.kind == kind][-1:] for kind in kinds]
        known = [rival for rival in able if rival.loss is not None]
        found.append(sorted(known, key=lambda rival: (rival.loss or 0.0, rival.name))[:1])
        return tuple({rival.name: rival for rivals in found for rival in rivals}.values())

    def beside(self, kind: str) -> Rival | None:
        """The largest tier, or the largest file type, that is not larger than asked for."""
        return next(
            (
                rival
                for rival in reversed(self.rivals)
                if rival.kind == kind and rival.plan.file_bytes <= self._limit
            ),
            None,
        )

    def gpu_bytes(self, made: Plan) -> int:
        """Bytes of a plan's tensors that lie on the GPU that was asked for."""
        room = self.room
        if room is None:
            return 0
        return sum(tensor.bytes for tensor in made.tensors if room.is_on_gpu(tensor.name))

    def to_dict(self) -> dict[str, Any]:
        """What was predicted, as data for JSON."""
        return self.described(self.better_rival)

    def described(self, taken: Rival | None) -> dict[str, Any]:
        """The same, of a file for which a rival is taken, or of the fitted one."""
        room = self.room
        return {
            "predicted": self.predicted,
            "bound": self.bound,
            "budget": self.budget,
            "bytes": self.plan.file_bytes,
            "taken": None if taken is None else taken.name,
            "gpu": None
            if room is None
            else {
                "weights": self.gpu_bytes(self.plan if taken is None else taken.plan),
                "room": room.weights,
                "cache": room.cache,
                "compute": room.compute,
            },
            "rivals": [
                {
                    "name": rival.name,
                    "kind": rival.kind,
                    "bytes": rival.plan.file_bytes,
                    "predicted": self.kl(rival.loss),
                }
                for rival in self.rivals
            ],
        }

    @property
    def _limit(self) -> int:
        return max(self.budget or 0, self.plan.file_bytes)

    def _could_be(self, made: Plan) -> bool:
        return (
            made.file_bytes <= self._limit
            and keeps(made, self.constraints)
            and (self.room is None or self.gpu_bytes(made) <= self.room.weights)
        )
