"""Chooses the types of a model's tensors for a size, a quality or a GPU."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from apex.allocation import BudgetError, Frontier, LossError
from apex.errors import ImatrixError, PlanError, UsageError
from apex.files import ImportanceMatrix, load_imatrix, load_second_moments
from apex.fitting.choices import Choices, base_of, choices_of, padded, raised
from apex.fitting.memory import GpuRoom, gpu_room
from apex.fitting.notes import notes_of
from apex.fitting.result import Fit
from apex.fitting.rivals import Rival, named_plan, predicted, rivals_of
from apex.fitting.solving import Solution, divided, solution_of
from apex.fitting.wishes import Constraints, Wish
from apex.planning import (
    REFERENCE,
    ImportanceReference,
    Plan,
    PlanOptions,
    find_importance,
    plan,
)
from apex.policy import is_tier, load_recipe
from apex.sensitivity import Sensitivity, calibration_of, check_model, load_sensitivity, losses_of
from apex.sensitivity.errors import needs_importance
from apex.sources import ModelFile, open_model

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Fitter", "fit"]


def fit(
    model: str | os.PathLike[str] | ModelFile,
    sensitivity: str | os.PathLike[str] | Sensitivity,
    wish: Wish,
    constraints: Constraints | None = None,
    *,
    name: str | None = None,
    **options: Unpack[PlanOptions],
) -> Fit:
    """Choose the type of every tensor so that the predicted KL divergence is least.

    sensitivity: what was measured of the model, or the file that it is in.
    name: what the plan is called in place of a tier, such as fit-mini.
    options: as for ``plan``, without a tier, a file type or types; rules for single tensors pin
        them.

    Of the model the header is read, and a few rows by which it is known to be the one that was
    measured. Raises SensitivityError, PlanError where the size cannot be reached, and as ``plan``
    does.
    """
    return Fitter(model, sensitivity, constraints, **options).fit(wish, name)


class Fitter:
    """Fits a model to one wish after the other; the arguments are those of ``fit``."""

    def __init__(
        self,
        model: str | os.PathLike[str] | ModelFile,
        sensitivity: str | os.PathLike[str] | Sensitivity,
        constraints: Constraints | None = None,
        **options: Unpack[PlanOptions],
    ) -> None:
        for option in ("tier", "file_type", "types", "pure"):
            if options.get(option):
                raise UsageError(
                    f"A fit chooses the types itself, and {option} would do so too.",
                    f"leave out {option}",
                )
        self.source = model if isinstance(model, ModelFile) else open_model(model)
        self.constraints = constraints or Constraints()
        self._inputs: tuple[str, ...] = ()
        if isinstance(sensitivity, (str, os.PathLike)):
            self._inputs = (os.fspath(sensitivity),)
            sensitivity = load_sensitivity(sensitivity)
        self.sensitivity = sensitivity
        # Of a header alone there are no rows to look at.
        check_model(sensitivity, self.source, weights=not self.source.missing)
        given = options.get("imatrix")
        matrix = load_imatrix(given) if isinstance(given, (str, os.PathLike)) else given
        self.matrix = matrix
        moments = options.get("second_moments")
        if isinstance(moments, (str, os.PathLike)):
            moments = load_second_moments(moments)
        self.moments = moments
        self.options: PlanOptions = {**options, "imatrix": matrix, "second_moments": moments}
        self.losses = self._losses(matrix)
        self._notes = notes_of(
            sensitivity,
            matrix,
            options.get("rounding", REFERENCE),
            self.moments,
            is_real=not options.get("sizes_only"),
        )

    def with_sensitivity(self, sensitivity: Sensitivity) -> Fitter:
        """The same with another sensitivity of the same model."""
        other = copy(self)
        other.__dict__.pop("rivals", None)  # what is predicted of them differs
        other.sensitivity = sensitivity
        other.losses = other._losses(self.matrix)
        return other

    @cached_property
    def rivals(self) -> tuple[Rival, ...]:
        """What a fitted file has to beat."""
        return rivals_of(self.source, self.losses, self.options)

    def fit(self, wish: Wish, name: str | None = None, *, compare: bool = True) -> Fit:
        """Choose types, as the function ``fit`` does.

        compare: with rivals; to plan them all takes seconds for a large vocabulary.
        """
        return _Fitting(self, wish, name or "fit", compare).fit()

    def named(self, name: str) -> Plan:
        """The plan of a tier or a file type."""
        return named_plan(self.source, name, self.options)

    def plan(self, types: Mapping[str, str], title: str) -> Plan:
        """A plan with these types."""
        wanted: PlanOptions = {
            **self.options,
            "file_type": base_of(self.source, types),
            "types": types,
            "types_origin": f"{title}: by measurement",
            "title": title,
            "edge_layers": None,  # those of the namesake
            "near_layers": None,
        }
        made = plan(self.source, **wanted)
        return replace(
            made, notes=(*made.notes, *self._notes), inputs=(*made.inputs, *self._inputs)
        )

    def _losses(self, matrix: ImportanceMatrix | None) -> dict[str, dict[str, float]]:
        """Of the types that each tensor may become with the importance that it has."""
        tensors = {tensor.name: tensor for tensor in self.source.tensors}

        def has_importance(name: str) -> bool:
            if matrix is None:
                return bool(self.options.get("sizes_only"))
            return isinstance(find_importance(tensors[name], matrix), ImportanceReference)

        losses = {
            name: {
                kind: loss
                for kind, loss in by_type.items()
                if not needs_importance(kind) or has_importance(name)
            }
            for name, by_type in losses_of(self.sensitivity).items()
        }
        return {name: of for name, of in losses.items() if of}  # some rows fit no type


class _Fitting:
    """One wish."""

    def __init__(self, fitter: Fitter, wish: Wish, name: str, compare: bool) -> None:
        self.fitter = fitter
        self.wish = wish
        self.name = name
        self.compare = compare
        self.budget = self._budget()
        self.pinned = self._pinned()
        self.base = fitter.plan(self.pinned, name)
        self.choices = choices_of(
            self.base, fitter.losses, fitter.constraints, _given(fitter.options)
        )

    def fit(self) -> Fit:
        if self.wish.vram is not None:
            return self._for_gpu(self.wish.vram)
        if self.wish.kl is not None:
            return self._under(self.wish.kl)
        assert self.budget is not None
        return self._within(self.budget)

    def _result(self, solution: Solution, room: GpuRoom | None = None) -> Fit:
        types = {**self.pinned, **self.choices.types(solution.choices)}
        return Fit(
            self.fitter.plan(types, self.name),
            solution,
            self.budget,
            self.choices,
            self.fitter.losses,
            self.fitter.rivals if self.compare else (),
            self.fitter.constraints,
            self.fitter.sensitivity,
            room,
        )

    def _under(self, kl: float) -> Fit:
        free = {name for members in self.choices.members.values() for name in members}
        losses = {name: of for name, of in self.fitter.losses.items() if name not in free}
        pinned = predicted(self.base, losses) or 0.0
        calibration = calibration_of(self.fitter.sensitivity)
        loss = calibration.loss(kl) - pinned
        try:
            return self._result(solution_of(Frontier(self.choices.items).under(loss)))
        except LossError as error:
            raise PlanError(
                f"No choice of types is predicted to have a KL divergence of at most {kl:g}; the "
                f"least is {calibration.kl(error.least + pinned):.3g}.",
                "ask for more, or allow more formats",
            ) from None

    def _within(self, budget: int) -> Fit:
        try:
            room = budget - self.choices.fixed_bytes
            return self._result(solution_of(Frontier(self.choices.items).within(room)))
        except BudgetError as error:
            raise self._too_small(error.smallest, budget) from None

    def _for_gpu(self, vram: int) -> Fit:
        wish, choices = self.wish, self.choices
        room = gpu_room(
            self.fitter.source,
            vram,
            wish.run,
            layers=wish.gpu_layers,
            experts_on_cpu=wish.experts_on_cpu,
        )
        on_gpu = {
            item.name for item in choices.items if room.is_on_gpu(choices.members[item.name][0])
        }
        chosen = {name for members in choices.members.values() for name in members}
        fixed = sum(
            tensor.bytes
            for tensor in self.base.tensors
            if tensor.name not in chosen and room.is_on_gpu(tensor.name)
        )
        smallest = fixed + _smallest_bytes(choices, on_gpu)
        if smallest > room.weights:
            raise PlanError(
                f"The smallest weights for the GPU have {smallest:,} bytes, and {room.weights:,} "
                "are left beside caches and buffers.",
                "use fewer --gpu-layers, --cpu-moe, or a smaller --context",
            )
        budget = None if wish.size is None else wish.size - choices.fixed_bytes
        try:
            solution = divided(
                choices.items, lambda item: item.name in on_gpu, room.weights - fixed, budget
            )
        except BudgetError as error:
            assert wish.size is not None
            raise self._too_small(error.smallest, wish.size) from None
        return self._result(solution, room)

    def _too_small(self, smallest: int, budget: int) -> PlanError:
        smallest += self.choices.fixed_bytes
        hint = "ask for a larger size, or allow smaller types"
        if self.fitter.options.get("imatrix") is None:
            hint += ": most of them need an importance matrix, --imatrix FILE"
        return PlanError(
            f"The smallest file that can be made has {smallest:,} bytes, and {budget:,} are asked "
            "for.",
            hint,
        )

    def _budget(self) -> int | None:
        """Bytes of the file; None where something else is asked for."""
        wish = self.wish
        if wish.bits_per_weight is not None:
            some = self.fitter.named("Q8_0")
            alignment = some.files[0].alignment
            header = some.file_bytes - sum(
                padded(tensor.type, tensor.source.shape, alignment) for tensor in some.tensors
            )
            return header + int(wish.bits_per_weight * some.weights / 8)
        if wish.like is not None:
            _check_importance(wish.like, self.name, self.fitter.options)
            return self.fitter.named(wish.like).file_bytes
        return wish.size

    def _pinned(self) -> dict[str, str]:
        """The types of tensors of which no loss is known, such as those of an MTP head.

        Larger ones than the namesake has where a constraint wants that.
        """
        losses, constraints = self.fitter.losses, self.fitter.constraints
        return {
            tensor.name: raised(tensor, constraints)
            for tensor in self._namesake().tensors
            if tensor.name not in losses and tensor.decided_by in ("tier", "file type")
        }

    def _namesake(self) -> Plan:
        """What the file is to be like; otherwise the largest tier, at every size the same.

        So a larger file is never predicted to be worse, as one with another head could be.
        """
        if self.wish.like is not None:
            return self.fitter.named(self.wish.like)
        has_matrix = self.fitter.options.get("imatrix") is not None
        try:
            return self.fitter.named("i-quality" if has_matrix else "quality")
        except (ImatrixError, PlanError):
            return self.fitter.named("Q8_0")


def _check_importance(like: str, name: str, options: PlanOptions) -> None:
    if options.get("imatrix") is not None or options.get("sizes_only") or not is_tier(like):
        return
    if load_recipe(like).importance == "required":
        what = f"The tier {name}" if name != "fit" else "A file"
        raise ImatrixError(
            f"{what} of the size of {like} needs an importance matrix, as {like} itself does.",
            "give one with --imatrix FILE, or have it made with --imatrix auto",
        )


def _given(options: PlanOptions) -> set[str]:
    """The tensors whose type an option of their own decides, before everything else."""
    return {
        name
        for name, given in (
            ("output.weight", options.get("output_tensor_type")),
            ("token_embd.weight", options.get("token_embedding_type")),
        )
        if given is not None
    }


def _smallest_bytes(choices: Choices, names: Collection[str]) -> int:
    """Of these items."""
    return sum(
        min(choice.bytes for choice in item.choices) for item in choices.items if item.name in names
    )
