"""Chooses the types of a model's tensors for a size, a quality or a GPU."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apex.allocation import BudgetError, Frontier, LossError
from apex.errors import PlanError
from apex.files import load_imatrix
from apex.fitting.choices import Choices, choices_of
from apex.fitting.memory import GpuRoom, gpu_room
from apex.fitting.rivals import Rival, named_plan, rivals_of
from apex.fitting.solving import Solution, divided, solution_of
from apex.fitting.wishes import Constraints, Wish
from apex.planning import Plan, PlanOptions, plan
from apex.sensitivity import Sensitivity, check_model, losses_of
from apex.sensitivity.errors import needs_importance
from apex.sources import ModelFile, open_model
from apex.types import FILE_TYPES

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Fit", "fit"]

# How often the budget is corrected by what the headers of shards take.
_TRIES = 8


@dataclass(frozen=True)
class Fit:
    """The types that were chosen, and beside what.

    Attributes:
        plan: the plan of the file; complete, and of at most the budget.
        solution: what was chosen of ``choices``, with its predicted KL divergence.
        budget: bytes that were asked for; None where a quality was, or a GPU.
        choices: what there was to choose.
        losses: by tensor and type, the predicted KL divergence in nats.
        rivals: the tiers and file types, the smallest first.
        room: of the GPU that was asked for, or None.
    """

    plan: Plan
    solution: Solution
    budget: int | None
    choices: Choices
    losses: Mapping[str, Mapping[str, float]]
    rivals: tuple[Rival, ...]
    room: GpuRoom | None = None

    @property
    def types(self) -> dict[str, str]:
        """By name, the types of the tensors that were chosen."""
        return self.choices.types(self.solution.choices)


def fit(
    model: str | os.PathLike[str] | ModelFile,
    sensitivity: Sensitivity,
    wish: Wish,
    constraints: Constraints | None = None,
    *,
    name: str | None = None,
    **options: Unpack[PlanOptions],
) -> Fit:
    """Choose the type of every tensor so that the predicted KL divergence is least.

    name: what the plan is called in place of a tier, such as fit-mini.
    options: as for ``plan``, without a tier, a file type or types; rules for single tensors pin
        them.

    Of the model the header is read, and a few rows by which it is known to be the one that was
    measured. Raises SensitivityError, PlanError where the size cannot be reached, and as ``plan``
    does.
    """
    source = model if isinstance(model, ModelFile) else open_model(model)
    check_model(sensitivity, source)
    matrix = options.get("imatrix")
    if isinstance(matrix, (str, os.PathLike)):
        options["imatrix"] = load_imatrix(matrix)
    fitting = _Fitting(source, sensitivity, wish, constraints or Constraints(), name, options)
    return fitting.fit()


class _Fitting:
    def __init__(
        self,
        source: ModelFile,
        sensitivity: Sensitivity,
        wish: Wish,
        constraints: Constraints,
        name: str | None,
        options: PlanOptions,
    ) -> None:
        self.source = source
        self.wish = wish
        self.name = name
        self.options = options
        has_matrix = options.get("imatrix") is not None
        self.losses = {
            tensor: {
                kind: loss for kind, loss in by_type.items() if has_matrix or _needs_none(kind)
            }
            for tensor, by_type in losses_of(sensitivity).items()
        }
        self.rivals = rivals_of(source, self.losses, options)
        self.budget = self._budget()
        self.pinned = self._pinned()
        self.base = self._plan({})
        self.choices = choices_of(self.base, self.losses, constraints)

    def fit(self) -> Fit:
        if self.wish.vram is not None:
            return self._for_gpu(self.wish.vram)
        if self.wish.kl is not None:
            return self._under(self.wish.kl)
        assert self.budget is not None
        return self._within(self.budget)

    def _result(self, made: Plan, solution: Solution, room: GpuRoom | None = None) -> Fit:
        return Fit(made, solution, self.budget, self.choices, self.losses, self.rivals, room)

    def _under(self, kl: float) -> Fit:
        try:
            solution = solution_of(Frontier(self.choices.items).under(kl))
        except LossError as error:
            raise PlanError(
                f"No choice of types is predicted to have a KL divergence of at most {kl:g}; the "
                f"least is {error.least:.3g}.",
                "ask for more, or allow more formats",
            ) from None
        return self._result(self._planned(solution), solution)

    def _within(self, budget: int) -> Fit:
        """The best plan of at most this size, headers of shards included."""
        frontier = Frontier(self.choices.items)
        slack = 0
        for _ in range(_TRIES):
            try:
                room = budget - slack - self.choices.fixed_bytes
                solution = solution_of(frontier.within(room))
            except BudgetError as error:
                raise _too_small(error.smallest + self.choices.fixed_bytes, budget) from None
            made = self._planned(solution)
            if made.file_bytes <= budget:
                return self._result(made, solution)
            slack += made.file_bytes - budget
        raise PlanError(
            f"The shards cannot be made to take {budget:,} bytes together.",
            "use a larger --split-max-size, or none",
        )

    def _for_gpu(self, vram: int) -> Fit:
        wish = self.wish
        room = gpu_room(
            self.source,
            vram,
            wish.run,
            layers=wish.gpu_layers,
            experts_on_cpu=wish.experts_on_cpu,
        )
        free = {item.name: self.choices.members[item.name] for item in self.choices.items}
        chosen = {name for members in free.values() for name in members}
        fixed = sum(
            tensor.bytes
            for tensor in self.base.tensors
            if tensor.name not in chosen and room.is_on_gpu(tensor.name)
        )
        budget = None if wish.size is None else wish.size - self.choices.fixed_bytes
        try:
            solution = divided(
                self.choices.items,
                lambda item: room.is_on_gpu(free[item.name][0]),
                room.weights - fixed,
                budget,
            )
        except BudgetError as error:
            raise PlanError(
                f"The smallest weights for the GPU have {(error.smallest + fixed) / 2**30:.3f} "
                f"GiB, and {room.weights / 2**30:.3f} GiB are left beside caches and buffers.",
                "use fewer --gpu-layers, --cpu-moe, or a smaller --context",
            ) from None
        return self._result(self._planned(solution), solution, room)

    def _budget(self) -> int | None:
        """Bytes of the file; None where something else is asked for."""
        wish = self.wish
        if wish.bits_per_weight is not None:
            some = self.rivals[0].plan
            header = some.file_bytes - some.tensor_bytes
            return header + int(wish.bits_per_weight * some.weights / 8)
        if wish.like is not None:
            return named_plan(self.source, wish.like, self.options).file_bytes
        return wish.size

    def _pinned(self) -> dict[str, str]:
        """The types of tensors of which no loss is known, such as those of an MTP head.

        They are those of the tier whose size the file is to have, or has most nearly.
        """
        tiers = [rival.plan for rival in self.rivals if rival.kind == "tier"]
        if self.wish.like is not None:
            nearest = named_plan(self.source, self.wish.like, self.options)
        elif self.budget is None:
            nearest = tiers[-1]
        else:
            budget = self.budget
            nearest = min(tiers, key=lambda made: abs(made.file_bytes - budget))
        return {
            tensor.name: tensor.type
            for tensor in nearest.tensors
            if tensor.name not in self.losses and tensor.decided_by in ("tier", "file type")
        }

    def _planned(self, solution: Solution) -> Plan:
        return self._plan(self.choices.types(solution.choices))

    def _plan(self, types: Mapping[str, str]) -> Plan:
        origin = self.name or "fit"
        wanted: PlanOptions = {
            **self.options,
            "file_type": _base_of(self.source, types),
            "types": {**self.pinned, **types},
            "types_origin": f"{origin}: by measurement",
            "title": origin,
        }
        return plan(self.source, **wanted)


def _needs_none(type_name: str) -> bool:
    return not needs_importance(type_name)


def _too_small(smallest: int, budget: int) -> PlanError:
    return PlanError(
        f"The smallest file that can be made has {smallest:,} bytes ({smallest / 2**30:.3f} GiB), "
        f"and {budget:,} are asked for.",
        "ask for a larger size, or allow smaller types",
    )


def _base_of(source: ModelFile, types: Mapping[str, str]) -> str:
    """The file type that most of the weights have, which the file claims to be of."""
    weights: dict[str, int] = defaultdict(int)
    for tensor in source.tensors:
        if tensor.name in types:
            weights[types[tensor.name]] += tensor.weights
    most = max(weights, key=lambda name: weights[name], default="Q8_0")
    named = [name for name, file_type in FILE_TYPES.items() if file_type.default_type == most]
    return named[-1] if named else "Q8_0"
