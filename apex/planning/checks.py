"""Everything that can be wrong with a decided plan, and what the user should know about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from apex import _core
from apex.errors import ImatrixError, PlanError, UsageError
from apex.planning.importance import ImportanceReference, Mismatch, find_importance
from apex.planning.request import Request
from apex.planning.tensor import PlannedTensor
from apex.planning.words import count, listed
from apex.policy import Layout, Role, choose
from apex.sources import Tensor
from apex.types import IGNORE_IMPORTANCE, TYPES, fits

__all__ = [
    "check_fits",
    "check_requantize",
    "check_widths",
    "importance_of",
    "note_fallbacks",
    "note_middle",
    "note_unreached",
]

Decisions = Sequence[_core.TensorDecision]

_CALIBRATED_ROLES = (Role.ROUTED, Role.SHARED, Role.DENSE, Role.ATTENTION, Role.SSM)
_MLA_NAMES = ("attn_kv_b.weight", "attn_k_b.weight", "attn_v_b.weight")
# The number of layers for which the tiers' widths were chosen.
_REFERENCE_LAYERS = 40


def check_widths(request: Request, layout: Layout) -> None:
    """Raise UsageError where a width that was asked for is more than the model has layers."""
    for word in ("edge", "near"):
        width = request.options.get(f"{word}_layers")
        if isinstance(width, int) and width > layout.trunk_layers:
            raise UsageError(
                f"--{word}-layers {width} is more than the {layout.trunk_layers} layers of the "
                "model.",
                "the tiers use 5 for a model of 40 layers",
            )


def check_fits(tensors: Sequence[Tensor], decisions: Decisions) -> None:
    """Raise PlanError where a type cannot be written.

    An explicit type for the output or the embedding is taken as it is, without fallback.
    """
    pairs = list(zip(tensors, decisions, strict=True))
    wrong = [
        f"{tensor.name} ({tensor.columns} columns, {decision.type})"
        for tensor, decision in pairs
        if not fits(decision.type, tensor.columns)
    ]
    if wrong:
        raise PlanError(
            f"The type asked for does not fit the rows of {listed(wrong)}: they are not a whole "
            "number of its blocks.",
            "choose a type with smaller blocks, such as Q8_0",
        )
    unwritable = sorted(
        {
            decision.type
            for tensor, decision in pairs
            if decision.type != tensor.type and not TYPES[decision.type].has_quantizer
        }
    )
    if unwritable:
        raise PlanError(f"No tensor can be made {listed(unwritable)}.", "choose another type")


def check_requantize(
    tensors: Sequence[Tensor], decisions: Decisions, request: Request, model: str
) -> None:
    """Raise PlanError where tensors are quantized already and the user did not accept that."""
    changed = [
        tensor
        for tensor, decision in zip(tensors, decisions, strict=True)
        if decision.type != tensor.type and tensor.type not in ("F32", "F16", "BF16")
    ]
    unreadable = [
        f"{tensor.name} ({tensor.type})"
        for tensor in changed
        if not TYPES[tensor.type].has_dequantizer
    ]
    if unreadable:
        raise PlanError(
            f"{listed(unreadable)} cannot be read as weights.", "leave them as they are"
        )
    if changed and not request.options.get("allow_requantize", False):
        types = sorted({tensor.type for tensor in changed})
        raise PlanError(
            f"{count(len(changed), 'tensor', 'are')} quantized already in {model} "
            f"({', '.join(types)}).",
            "start from an F16, BF16 or F32 file, or accept the loss with --allow-requantize",
        )


@dataclass
class _Importance:
    """What was found out about the importance of all tensors."""

    found: dict[str, ImportanceReference] = field(default_factory=dict)
    needed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def importance_of(
    tensors: Sequence[Tensor],
    decisions: Decisions,
    request: Request,
    layout: Layout,
    model: str,
) -> tuple[dict[str, ImportanceReference], list[str]]:
    """The importance of every tensor that is quantized, and notes.

    Raises ImatrixError; all that is wrong with the importance matrix is one error.
    """
    result = _find_all(tensors, decisions, request, layout)
    if not request.options.get("sizes_only"):
        _report(result, request, model)
    notes = []
    if result.missing and request.imatrix is not None:
        one = len(result.missing) == 1
        notes.append(
            f"{count(len(result.missing), 'tensor', 'have')} no entry in {request.imatrix.path} "
            f"and {'is' if one else 'are'} quantized without importance: {listed(result.missing)}."
        )
    mapped = [name for name, importance in result.found.items() if importance.entry != name]
    if mapped:
        notes.append(
            f"{count(len(mapped), 'tensor', 'use')} the importance of a tensor with the same "
            f"input: {listed(mapped)}."
        )
    return result.found, notes


def _find_all(
    tensors: Sequence[Tensor], decisions: Decisions, request: Request, layout: Layout
) -> _Importance:
    result = _Importance()
    for tensor, decision in zip(tensors, decisions, strict=True):
        if decision.type == tensor.type or not TYPES[decision.type].is_quantized:
            continue
        needs = decision.needs_importance or TYPES[decision.type].needs_importance
        match = find_importance(tensor, request.imatrix) if request.imatrix else None
        if isinstance(match, ImportanceReference):
            result.found[tensor.name] = match
        elif isinstance(match, Mismatch) and (needs or not _is_embedding(tensor.name)):
            result.wrong.append(
                f"{match.entry} has {match.size} values instead of {match.expected}"
            )
        elif needs or _tier_needs(tensor, decision.type, request, layout):
            result.needed.append(f"{tensor.name} ({decision.type})")
        elif not _is_embedding(tensor.name) and decision.type not in IGNORE_IMPORTANCE:
            result.missing.append(tensor.name)
    if request.imatrix is not None:
        entries = request.imatrix.entries.items()
        result.wrong += [f"{name} is not finite" for name, entry in entries if not entry.is_sound()]
    return result


def _tier_needs(tensor: Tensor, type_name: str, request: Request, layout: Layout) -> bool:
    """Whether a tier that stands on importance may not do without it for this tensor.

    llama-imatrix sees every matrix product of the trunk. The MTP head does not run there, and of
    MLA's projections an older file knows only the joined form.
    """
    if request.recipe is None or not request.needs_importance or type_name in IGNORE_IMPORTANCE:
        return False
    role = choose(tensor.name, layout, request.recipe).role
    return role in _CALIBRATED_ROLES and not tensor.name.endswith(_MLA_NAMES)


def _report(result: _Importance, request: Request, model: str) -> None:
    if result.needed and request.imatrix is None:
        would = (
            "would get a type that needs"
            if len(result.needed) == 1
            else "would get types that need"
        )
        raise ImatrixError(
            f"{count(len(result.needed), 'tensor')} {would} an importance matrix: "
            f"{listed(result.needed)}.",
            "give one with --imatrix FILE, or choose a larger type",
        )
    if request.imatrix is None:
        return
    problems = [f"no entry for {name}" for name in result.needed] + result.wrong
    if not problems and not result.found and request.quantizes:
        problems = [f"none of its {len(request.imatrix.entries)} entries is for this model"]
    if problems:
        raise ImatrixError(
            f"{request.imatrix.path} does not fit {model}: {'; '.join(problems)}.",
            "make an importance matrix from this very model, with more text if experts are missing",
        )


def note_fallbacks(planned: Iterable[PlannedTensor], request: Request) -> list[str]:
    """What the row lengths forced; an error under ``strict``."""
    fallbacks = [tensor for tensor in planned if tensor.is_fallback]
    if not fallbacks:
        return []
    cost = sum(tensor.fallback_bytes for tensor in fallbacks)
    names = listed([f"{tensor.name} ({tensor.wanted} -> {tensor.type})" for tensor in fallbacks])
    fit = (
        "rows that do not fit its type and falls"
        if len(fallbacks) == 1
        else "rows that do not fit their type and fall"
    )
    sentence = (
        f"{count(len(fallbacks), 'tensor', 'have')} {fit} back to another, which costs "
        f"{cost / 2**20:.2f} MiB: {names}."
    )
    if request.options.get("strict", False):
        raise PlanError(sentence, "choose types with blocks of 32, or leave out --strict")
    return [sentence]


def note_unreached(planned: Iterable[PlannedTensor]) -> list[str]:
    """The experts that the calibration never reached."""
    unreached = [
        (tensor.name, len(tensor.importance.unreached), tensor.source.experts)
        for tensor in planned
        if tensor.importance is not None and tensor.importance.unreached
    ]
    if not unreached:
        return []
    total = sum(number for _, number, _ in unreached)
    names = listed([f"{name} ({number} of {of})" for name, number, of in unreached])
    return [
        f"The calibration never reached {count(total, 'expert')}, in "
        f"{count(len(unreached), 'tensor')}: {names}."
    ]


def note_middle(planned: Iterable[PlannedTensor], request: Request, layout: Layout) -> list[str]:
    """That a short model has no middle, and which widths would give it one.

    The tiers' widths stay what their authors published, so that a tier means the same bytes
    everywhere; a user who wants the proportions of the reference model asks for them.
    """
    recipe = request.recipe
    if recipe is None or any(request.options.get(f"{word}_layers") for word in ("edge", "near")):
        return []
    zones = {tensor.zone for tensor in planned if tensor.role is Role.ROUTED}
    types = recipe.types.get(Role.ROUTED, {})
    if not zones or "middle" in zones or types.get("middle") in (None, *map(types.get, zones)):
        return []
    scale = layout.trunk_layers / _REFERENCE_LAYERS
    edge, near = (
        max(1, round(width * scale)) for width in (recipe.edge_layers, recipe.near_layers)
    )
    if 2 * (edge + near) >= layout.trunk_layers:
        return []
    return [
        f"The model's {layout.trunk_layers} layers leave no middle between edge and near zones of "
        f"{recipe.edge_layers} and {recipe.near_layers} layers at each end, so the tier's smallest "
        f"types for routed experts are not used. --edge-layers {edge} --near-layers {near} would "
        f"keep the proportions of a model of {_REFERENCE_LAYERS} layers."
    ]


def _is_embedding(name: str) -> bool:
    """Tensors that no matrix product runs through in calibration, so that none has an entry."""
    return name in ("token_embd.weight", "per_layer_token_embd.weight", "output.weight")
