"""What a fitted file has to beat: the tiers and file types of its size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from apex.errors import ApexError, UsageError
from apex.planning import Plan, PlanOptions, plan
from apex.policy import is_tier, load_recipe, tiers
from apex.sensitivity.errors import CANDIDATES, needs_importance
from apex.sources import Source
from apex.types import FILE_TYPES, TYPES

__all__ = ["Rival", "named_plan", "predicted", "rivals_of"]

Losses = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Rival:
    """A tier or a file type.

    Attributes:
        name: such as i-compact, or Q4_K_M.
        kind: "tier" or "file type".
        plan: what would be written.
        loss: the sum of its losses; None where a type of it was not measured.
    """

    name: str
    kind: str
    plan: Plan
    loss: float | None


def predicted(made: Plan, losses: Losses) -> float | None:
    """The sum of the losses of a plan; None where the error of a type is not known."""
    found = []
    for tensor in made.tensors:
        if tensor.name not in losses or tensor.is_copied or not TYPES[tensor.type].is_quantized:
            continue
        loss = losses[tensor.name].get(tensor.type)
        if loss is None:
            return None
        found.append(loss)
    return math.fsum(found)  # the same whatever the order of the tensors


def named_plan(source: Source, name: str, options: PlanOptions) -> Plan:
    """The plan of a tier or of a file type, for its size. Raises UsageError for another name."""
    if is_tier(name):
        return plan(source, **_as(options, tier=name))
    if name.upper() in FILE_TYPES:
        return plan(source, **_as(options, file_type=name.upper()))
    raise UsageError(
        f"There is no tier and no file type {name}.", "as in --like i-compact, or --like Q4_K_M"
    )


def rivals_of(source: Source, losses: Losses, options: PlanOptions) -> tuple[Rival, ...]:
    """All tiers and file types that could be made with these options, the smallest first.

    With an importance matrix the tiers that use one, and without the others.
    """
    found = list(_all(source, losses, options))
    return tuple(sorted(found, key=lambda rival: (rival.plan.file_bytes, rival.name)))


def _all(source: Source, losses: Losses, options: PlanOptions) -> Iterator[Rival]:
    has_matrix = options.get("imatrix") is not None or bool(options.get("sizes_only"))
    names = [
        recipe.name
        for recipe in tiers()
        if (load_recipe(recipe.name).importance == "required") == has_matrix
    ]
    # Of a file type of one or of 16 bits no loss is known, so that its plan need not be made.
    file_types = [
        name
        for name, file_type in FILE_TYPES.items()
        if file_type.default_type in CANDIDATES
        and (has_matrix or not needs_importance(file_type.default_type))
    ]
    for kind, name in [
        *(("tier", name) for name in names),
        *(("file type", name) for name in file_types),
    ]:
        try:
            made = named_plan(source, name, options)
        except ApexError:
            continue  # it needs importance that is not there, or rows that fit
        loss = predicted(made, losses)
        if kind == "file type" and not loss:
            continue  # one of few bits; or one that keeps all as it is
        yield Rival(name, kind, made, loss)


def _as(
    options: PlanOptions, *, tier: str | None = None, file_type: str | None = None
) -> PlanOptions:
    """The options for a tier or a file type; the widths are for tiers."""
    chosen: PlanOptions = {**options, "tier": tier, "file_type": file_type}
    if tier is None:
        chosen.update({"edge_layers": None, "near_layers": None})
    return chosen
