"""What the user asks for each tensor: by a rule, by its name, by the recipe, or by the file type.

The first of these that names a type for the tensor wins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from apex import _core
from apex.errors import UsageError
from apex.planning.request import Request
from apex.planning.words import closest, count, listed
from apex.policy import Choice, Layout, Recipe, TensorTypeRule, choose

__all__ = ["Wish", "wishes_of"]

_LAYER = re.compile(r"blk\\?\.(\d+)")
_NO_RECIPE = Recipe("", "", "", "none", {})


@dataclass(frozen=True)
class Wish:
    """What is asked for a tensor, before llama.cpp has its word.

    Attributes:
        choice: role, layer, zone, and the recipe's type.
        type: the type that is asked for, or None where the file type decides.
        decided_by, reason: as in ``PlannedTensor``.
    """

    choice: Choice
    type: str | None
    decided_by: str
    reason: str


def wishes_of(names: Sequence[str], request: Request, layout: Layout) -> tuple[list[Wish], str]:
    """A wish for each tensor, and a note or "".

    Raises UsageError where a rule or a name belongs to no tensor.
    """
    matches, note = _matches(names, request.rules)
    _check_names(names, request)
    return [
        _wish(name, request.rules[match] if match >= 0 else None, request, layout)
        for name, match in zip(names, matches, strict=True)
    ], note


def _wish(name: str, rule: TensorTypeRule | None, request: Request, layout: Layout) -> Wish:
    choice = _choice(name, request, layout)
    if rule is not None:
        reason = f"{rule.pattern}={rule.type} ({rule.source})"
        return Wish(choice, rule.type, "override", reason)
    if name in request.types:
        origin = request.options.get("types_origin") or "by its name"
        return Wish(choice, request.types[name], "mapping", origin)
    if choice.type is not None and request.recipe is not None:
        reason = f"{request.recipe.name}: {choice.role.value}, {choice.zone}"
        return Wish(choice, choice.type, "tier", reason)
    return Wish(choice, None, "file type", f"file type {request.file_type}")


def _choice(name: str, request: Request, layout: Layout) -> Choice:
    if request.recipe is not None:
        return choose(name, layout, request.recipe)
    return replace(choose(name, layout, _NO_RECIPE), zone="")


def _check_names(names: Sequence[str], request: Request) -> None:
    unknown = sorted(set(request.types) - set(names))
    if unknown:
        raise UsageError(
            f"The model has no tensor {listed(unknown)}, for which a type was given.",
            closest(unknown[0], names).partition("known:")[0].strip()
            or "apex inspect MODEL --tensors lists the tensors",
        )


def _matches(names: Sequence[str], rules: Sequence[TensorTypeRule]) -> tuple[list[int], str]:
    """For each name the index of its rule, or -1. A rule that nobody can need is an error."""
    try:
        matches = _core.first_match([rule.pattern for rule in rules], names)
        used = set(matches)
        # A rule may be shadowed by an earlier one; then it still matches by itself.
        idle = [
            rule
            for index, rule in enumerate(rules)
            if index not in used and max(_core.first_match([rule.pattern], names)) < 0
        ]
    except ValueError as error:
        raise UsageError(f"{error}.", "write a regular expression, as in ffn_down=q6_k") from None
    absent = [rule for rule in idle if _is_for_other_layers(rule, names)]
    wrong = [f"{rule.pattern} ({rule.source})" for rule in idle if rule not in absent]
    if wrong:
        raise UsageError(
            f"{count(len(wrong), 'pattern', 'match')} no tensor of the model: {listed(wrong)}.",
            "apex inspect MODEL --tensors lists the tensors",
        )
    if not absent:
        return matches, ""
    patterns = listed([rule.pattern for rule in absent])
    if len(absent) == 1:
        return matches, (
            f"A rule of {absent[0].source} is for a tensor that its layer lacks: {patterns}."
        )
    return matches, (
        f"{len(absent)} rules of {absent[0].source} are for tensors that their layers lack: "
        f"{patterns}."
    )


def _is_for_other_layers(rule: TensorTypeRule, names: Sequence[str]) -> bool:
    """Whether a file's rule is for a tensor that only other layers have.

    Files for hybrid models list attention and ssm tensors for every layer.
    """
    layer = _LAYER.search(rule.pattern)
    if layer is None or rule.source == "--tensor-type":
        return False
    has_layer = any(f"blk.{layer[1]}." in name for name in names)
    anywhere = rule.pattern[: layer.start(1)] + "[0-9]+" + rule.pattern[layer.end(1) :]
    return has_layer and max(_core.first_match([anywhere], names)) >= 0
