"""Fits: of exactly the bytes that were asked for, the better the larger, as the user constrains."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import imatrix, moments
from support.architectures import ModelSpec, TensorSpec, architectures, write_model
from support.llama import llama_tensors, write_llama
from support.sensitivities import bits, sensitivity_of

import apex
from apex import Constraints, Wish
from apex.errors import ImatrixError, PlanError, SensitivityError, UsageError
from apex.files import load_second_moments
from apex.fitting import FIT_TIERS, Fitter
from apex.planning import Plan
from apex.policy import Role
from apex.sensitivity import Anchor, Sensitivity, save_sensitivity

MIB = 1 << 20


@pytest.fixture(scope="module")
def sensitivity(demo_model: Path) -> Sensitivity:
    return sensitivity_of(demo_model)


@pytest.fixture(scope="module")
def fitter(demo_model: Path, sensitivity: Sensitivity) -> Fitter:
    return Fitter(demo_model, sensitivity)


def types_of(plan: Plan) -> dict[str, str]:
    return {tensor.name: tensor.type for tensor in plan.tensors}


def by_hand(plan: Plan, sensitivity: Sensitivity) -> float:
    """The sum over groups of slope times error."""
    total = 0.0
    for group in sensitivity.groups:
        if not group.probes:
            continue
        harsh, mild = group.probes[0], group.probes[-1]
        slope = (harsh.kl - mild.kl) / (harsh.distance - mild.distance)
        types = types_of(plan)
        total += sum(slope * sensitivity.errors[name][types[name]] for name in group.tensors)
    return total


@pytest.mark.parametrize("size", [15 * MIB, 17 * MIB + 1, 20_000_000, 25 * MIB, 33 * MIB])
def test_a_file_of_the_size_that_was_asked_for(
    demo_model: Path, fitter: Fitter, tmp_path: Path, size: int
) -> None:
    found = fitter.fit(Wish(size=size))
    assert 0.999 * size <= found.plan.file_bytes <= size
    result = apex.quantize(found.plan, tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").stat().st_size == found.plan.file_bytes == result.bytes
    written = {tensor.name: tensor.type for tensor in apex.open_model(result.paths[0]).tensors}
    assert written == types_of(found.plan)
    assert found.types.items() <= written.items()


def test_what_is_predicted(fitter: Fitter, sensitivity: Sensitivity) -> None:
    found = fitter.fit(Wish(size=20 * MIB))
    assert found.predicted == pytest.approx(by_hand(found.plan, sensitivity), rel=1e-9)
    for rival in found.rivals:
        if rival.loss is not None:
            assert rival.loss == pytest.approx(by_hand(rival.plan, sensitivity), rel=1e-9)
    assert {"Q4_K_M", "Q6_K", "quality", "compact"} <= {rival.name for rival in found.rivals}
    sizes = [rival.plan.file_bytes for rival in found.rivals]
    assert sizes == sorted(sizes)
    assert found.bound is not None and found.predicted is not None
    assert 0.99 * found.predicted < found.bound <= found.predicted


def test_a_larger_file_is_never_predicted_to_be_worse(fitter: Fitter) -> None:
    fits = [fitter.fit(Wish(size=size)) for size in range(15 * MIB, 36 * MIB, MIB // 3 + 7)]
    losses = [found.predicted for found in fits]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 10 * losses[-1]


def test_that_holds_where_tiers_have_other_heads(demo_model: Path, tmp_path: Path) -> None:
    """The MTP head is smaller in nano; with its own size as a wish, a fit follows it there."""
    matrix = tmp_path / "matrix.gguf"
    random = np.random.default_rng(0)
    shapes = {t.name: t.shape for t in apex.open_model(demo_model).tensors if len(t.shape) > 1}
    entries = {}
    for name, (columns, _, *experts) in shapes.items():
        count = experts[0] if experts else 1
        sums = random.uniform(1, 9, (count, columns)).astype(np.float32)
        entries[name] = (sums, np.ones(count, np.float32))
    imatrix.write_gguf(matrix, entries)
    fitter = Fitter(demo_model, sensitivity_of(demo_model, matrix), imatrix=matrix)
    sizes = {rival.name: rival.plan.file_bytes for rival in fitter.rivals}
    between = range(sizes["nano"] - 3 * MIB, sizes["mini"] + 2 * MIB, MIB // 3)
    losses = [fitter.fit(Wish(size=size)).predicted for size in between]
    assert losses == sorted(losses, reverse=True)
    nano, small = fitter.fit(Wish(like="nano")), fitter.fit(Wish(size=sizes["nano"]))
    for found, kind in ((nano, "Q4_K"), (small, "Q8_0")):
        assert types_of(found.plan)["blk.8.attn_q.weight"] == kind


def test_every_type_is_the_best_of_what_can_be_had(fitter: Fitter) -> None:
    """No swap of two tensors' types that keeps the size lowers the prediction much."""
    found = fitter.fit(Wish(size=20 * MIB))
    losses = found.losses
    sizes = {tensor.name: tensor.source.weights for tensor in found.plan.tensors}
    by_size = defaultdict(list)
    for name, kind in found.types.items():
        by_size[sizes[name]].append((name, kind))
    for same in by_size.values():
        for one, first in same:
            for other, second in same:
                gain = losses[one][first] + losses[other][second]
                gain -= losses[one][second] + losses[other][first]
                assert gain < 1e-3 * found.predicted


def test_the_wishes(demo_model: Path, fitter: Fitter) -> None:
    like = fitter.fit(Wish(like="Q4_K_M"))
    assert like.budget == apex.plan(demo_model, file_type="Q4_K_M").file_bytes
    assert like.budget * 0.999 <= like.plan.file_bytes <= like.budget
    assert (
        fitter.fit(Wish(like="compact")).budget == apex.plan(demo_model, tier="compact").file_bytes
    )
    bpw = fitter.fit(Wish(bits_per_weight=4.5)).plan
    assert 4.49 < bpw.bits_per_weight <= 4.5
    for kl in (1.0, 0.1, 0.01):
        found = fitter.fit(Wish(kl=kl))
        assert found.predicted is not None and 0.95 * kl < found.predicted <= kl
        smaller = fitter.fit(Wish(size=found.plan.file_bytes - 4096))
        assert smaller.predicted is not None and smaller.predicted > kl


def test_a_fit_beats_what_has_its_size(fitter: Fitter) -> None:
    for name in ("Q3_K_M", "Q4_K_M", "Q5_K_M", "compact", "quality"):
        found = fitter.fit(Wish(like=name))
        rival = next(rival for rival in found.rivals if rival.name == name)
        assert found.predicted is not None and rival.loss is not None
        assert found.predicted < rival.loss
        assert found.better_rival is None and found.best is found.plan


def test_what_is_not_known_is_as_in_the_namesake(demo_model: Path, fitter: Fitter) -> None:
    for name in ("compact", "quality", "Q3_K_M"):
        kind = {"file_type": name} if name == "Q3_K_M" else {"tier": name}
        namesake = types_of(apex.plan(demo_model, **kind))  # type: ignore[arg-type]
        found = fitter.fit(Wish(like=name))
        mtp = [tensor for tensor in found.plan.tensors if tensor.role is Role.MTP]
        assert mtp and not {tensor.name for tensor in mtp} & set(found.types)
        assert all(tensor.type == namesake[tensor.name] for tensor in mtp)


def test_the_base_is_the_file_type_that_most_weights_have(fitter: Fitter) -> None:
    for size in (16 * MIB, 20 * MIB, 24 * MIB, 33 * MIB):
        plan = fitter.fit(Wish(size=size)).plan
        weights: dict[str, int] = defaultdict(int)
        for tensor in plan.tensors:
            weights[tensor.type] += tensor.source.weights
        most = max(weights, key=lambda name: weights[name])
        assert plan.file_type.startswith(most)
        assert plan.file_type != "Q2_K_S"


# Constraints


def test_pins(demo_model: Path, sensitivity: Sensitivity) -> None:
    rules = [r"blk\.[0-3]\.ffn_down_exps=q6_k", "attn_v=f16", "output=q8_0"]
    found = apex.fit(demo_model, sensitivity, Wish(size=20 * MIB), tensor_types=rules)
    types = types_of(found.plan)
    assert {types[f"blk.{layer}.ffn_down_exps.weight"] for layer in range(4)} == {"Q6_K"}
    assert types["blk.3.attn_v.weight"] == "F16"
    assert not any("attn_v." in name for name in found.types)
    assert 0.999 * 20 * MIB <= found.plan.file_bytes <= 20 * MIB
    chosen = math.fsum(found.losses[name][kind] for name, kind in found.types.items())
    pinned = sum(
        found.losses[name]["Q6_K"]
        for name in types
        if name.endswith("ffn_down_exps.weight") and int(name.split(".")[1]) < 4
    )
    assert found.predicted is not None and found.predicted >= chosen + pinned
    under = apex.fit(demo_model, sensitivity, Wish(kl=found.predicted), tensor_types=rules)
    assert under.predicted is not None and under.predicted <= found.predicted


@pytest.mark.parametrize(
    "options",
    [
        {"output_tensor_type": "Q5_K"},
        {"token_embedding_type": "Q8_0", "output_tensor_type": "Q8_0"},
        {"leave_output_tensor": True},
    ],
)
def test_types_of_the_output_are_within_the_budget(
    demo_model: Path, sensitivity: Sensitivity, options: dict[str, str]
) -> None:
    found = apex.fit(demo_model, sensitivity, Wish(size=20 * MIB), **options)  # type: ignore[arg-type]
    assert 0.999 * 20 * MIB <= found.plan.file_bytes <= 20 * MIB
    kind = options.get("output_tensor_type", "F16")
    assert types_of(found.plan)["output.weight"] == kind
    assert "output.weight" not in found.types
    assert types_of(found.plan).items() >= found.types.items()


def test_widths_belong_to_the_namesake(demo_model: Path, sensitivity: Sensitivity) -> None:
    widths = {"edge_layers": 1, "near_layers": 1}
    found = apex.fit(demo_model, sensitivity, Wish(like="quality"), **widths)  # type: ignore[arg-type]
    namesake = apex.plan(demo_model, tier="quality", **widths)  # type: ignore[arg-type]
    assert found.budget == namesake.file_bytes
    assert namesake.file_bytes < apex.plan(demo_model, tier="quality").file_bytes


def test_floors(demo_model: Path, sensitivity: Sensitivity) -> None:
    floors = {Role.ATTENTION: "Q6_K", Role.SSM: "Q5_K", Role.MTP: "F16"}
    found = apex.fit(demo_model, sensitivity, Wish(size=24 * MIB), Constraints(floors=floors))
    for tensor in found.plan.tensors:
        if tensor.role in floors and tensor.decided_by != "llama.cpp":
            assert bits(tensor.type) >= bits(floors[tensor.role]), tensor
    free = apex.fit(demo_model, sensitivity, Wish(size=24 * MIB))
    assert free.predicted is not None and found.predicted is not None
    assert free.predicted < found.predicted


@pytest.mark.parametrize("formats", ["k", "k,iq4"])
def test_formats(demo_model: Path, sensitivity: Sensitivity, formats: str) -> None:
    found = apex.fit(demo_model, sensitivity, Wish(size=18 * MIB), Constraints(formats))
    used = set(types_of(found.plan).values())
    assert not any(name.startswith(("IQ1", "IQ2", "IQ3")) for name in used)
    assert any(name.startswith("IQ4") for name in used) == (formats == "k,iq4")
    assert 0.999 * 18 * MIB <= found.plan.file_bytes <= 18 * MIB


def test_equal_pairs(demo_model: Path, sensitivity: Sensitivity) -> None:
    wish = Wish(size=20 * MIB)
    types = types_of(apex.fit(demo_model, sensitivity, wish, Constraints(equal_pairs=True)).plan)
    free = types_of(apex.fit(demo_model, sensitivity, wish).plan)
    gates = [name for name in types if "ffn_gate_exps" in name or "ffn_gate_shexp" in name]
    pairs = [(name, name.replace("gate", "up")) for name in gates if name in types]
    assert len(pairs) == 18
    assert all(types[gate] == types[up] for gate, up in pairs)
    assert any(free[gate] != free[up] for gate, up in pairs)


def test_no_tier_can_be_made(dense_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then what is not known is Q8_0."""
    sensitivity = sensitivity_of(dense_model)
    groups = tuple(g if g.layer != 1 else replace(g, probes=()) for g in sensitivity.groups)
    kinds = {group.kind for group in groups if group.layer == 1}
    unknown = tuple(replace(g, probes=()) if g.kind in kinds else g for g in groups)
    fitter = Fitter(dense_model, replace(sensitivity, groups=unknown))
    named = Fitter.named

    def refuse(self: Fitter, name: str) -> Plan:
        if name == "quality":
            raise PlanError("no")
        return named(self, name)

    monkeypatch.setattr(Fitter, "named", refuse)
    size = apex.plan(dense_model, file_type="Q8_0").file_bytes - 100_000
    found = fitter.fit(Wish(size=size))
    assert {"token_embd.weight", "output.weight"} == set(found.types)
    assert types_of(found.plan)["blk.0.ffn_up.weight"] == "Q8_0"
    assert 0.99 * size <= found.plan.file_bytes <= size


@pytest.mark.parametrize("limit", [2_000_000, 5_000_000, 12_000_000])
def test_shards(demo_model: Path, sensitivity: Sensitivity, tmp_path: Path, limit: int) -> None:
    fitter = Fitter(demo_model, sensitivity, split_max_size=limit)
    losses = []
    for size in (18 * MIB, 18 * MIB + 500, 20 * MIB, 20 * MIB + 64):
        found = fitter.fit(Wish(size=size))
        assert 0.999 * size <= found.plan.file_bytes <= size
        losses.append(found.predicted)
    assert losses == sorted(losses, reverse=True)
    assert len(found.plan.files) > 1
    result = apex.quantize(found.plan, tmp_path / "out.gguf")
    assert sum(path.stat().st_size for path in result.paths) == found.plan.file_bytes


def test_quantized_sources(demo_model: Path, sensitivity: Sensitivity, tmp_path: Path) -> None:
    """A Q8_0 file of the same model: what stays Q8_0 is chosen too."""
    apex.quantize(demo_model, tmp_path / "q8.gguf", file_type="Q8_0")
    wish = Wish(size=20 * MIB)
    with pytest.raises(PlanError, match="quantized already"):
        apex.fit(tmp_path / "q8.gguf", sensitivity, wish)
    found = apex.fit(tmp_path / "q8.gguf", sensitivity, wish, allow_requantize=True)
    assert len(found.types) == len(apex.fit(demo_model, sensitivity, wish).types)
    assert 0.999 * 20 * MIB <= found.plan.file_bytes <= 20 * MIB


# Never worse


def test_a_better_rival_is_taken(demo_model: Path, fitter: Fitter) -> None:
    found = fitter.fit(Wish(like="Q4_K_M"), "fit-compact")
    assert found.predicted is not None
    best = replace(found.rivals[0], loss=found.predicted / 2, plan=found.plan, name="Q4_X")
    worse = replace(found, rivals=(*found.rivals, best))
    assert worse.better_rival is best
    assert worse.best.tier == "fit-compact"
    assert "Q4_X is taken as it is" in worse.best.notes[-1]
    assert worse.to_dict()["taken"] == "Q4_X"
    equal = replace(best, loss=found.predicted)
    assert replace(found, rivals=(equal,)).better_rival is None
    unknown = replace(best, loss=None)
    assert replace(found, rivals=(unknown,)).better_rival is None
    large = replace(best, plan=apex.plan(demo_model, file_type="Q8_0"))
    assert replace(found, rivals=(large,)).better_rival is None


def test_a_rival_keeps_the_constraints(demo_model: Path, sensitivity: Sensitivity) -> None:
    """At this size a floor costs so much that a file type without it would be better."""
    floors = {Role.ROUTED: "Q4_K"}
    wish = Wish(size=apex.plan(demo_model, file_type="Q4_K_M").file_bytes)
    found = apex.fit(demo_model, sensitivity, wish, Constraints(floors=floors))
    free = apex.fit(demo_model, sensitivity, wish)
    rival = replace(free.rivals[0], plan=free.plan, loss=free.predicted)
    assert free.predicted is not None and found.predicted is not None
    assert free.predicted < found.predicted
    tempted = replace(found, rivals=(rival,))
    assert tempted.better_rival is None
    assert replace(tempted, constraints=Constraints()).better_rival is rival
    assert replace(tempted, constraints=Constraints("k")).better_rival is None
    assert replace(tempted, constraints=Constraints(equal_pairs=True)).better_rival is None


# What cannot be


def test_a_size_that_cannot_be_reached(demo_model: Path, fitter: Fitter) -> None:
    with pytest.raises(PlanError, match=r"The smallest file that can be made has [\d,]+") as caught:
        fitter.fit(Wish(size=MIB))
    smallest = int(caught.value.message.split(" has ")[1].split()[0].replace(",", ""))
    assert fitter.fit(Wish(size=smallest)).plan.file_bytes == smallest
    with pytest.raises(PlanError, match=f"{smallest:,}"):
        fitter.fit(Wish(size=smallest - 1))


def test_a_quality_that_cannot_be_reached(fitter: Fitter) -> None:
    with pytest.raises(PlanError, match="the least is") as caught:
        fitter.fit(Wish(kl=1e-12))
    least = float(caught.value.message.rstrip(".").split()[-1])
    assert fitter.fit(Wish(kl=least * 1.01)).predicted == pytest.approx(least, rel=0.02)


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"size": 1 << 30, "kl": 0.1},
        {"like": "mini", "bits_per_weight": 4.0},
        {"vram": 1 << 30, "kl": 0.1},
        {"vram": 1 << 30, "size": 1 << 30, "kl": 0.1},
        {"size": 0},
        {"kl": math.nan},
        {"bits_per_weight": -1.0},
        {"vram": 0},
    ],
)
def test_wrong_wishes(wish: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Wish(**wish)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [{"tier": "quality"}, {"file_type": "Q8_0"}, {"types": {"a": "Q8_0"}}, {"pure": True}],
)
def test_what_else_would_choose_types(
    demo_model: Path, sensitivity: Sensitivity, options: dict[str, str]
) -> None:
    with pytest.raises(UsageError, match="A fit chooses the types itself"):
        apex.fit(demo_model, sensitivity, Wish(bits_per_weight=5), **options)  # type: ignore[arg-type]


def test_wrong_constraints(demo_model: Path, sensitivity: Sensitivity, fitter: Fitter) -> None:
    with pytest.raises(UsageError, match="no formats 'q'"):
        Constraints("q")
    with pytest.raises(UsageError, match="There is no type Q7_K"):
        Constraints(floors={Role.SSM: "Q7_K"})
    with pytest.raises(UsageError, match="no tier and no file type Q9"):
        fitter.fit(Wish(like="Q9"))
    with pytest.raises(PlanError, match=r"No type is left for blk\.\d+\.attn"):
        constraints = Constraints(floors={Role.ATTENTION: "F32"})
        apex.fit(demo_model, sensitivity, Wish(size=20 * MIB), constraints)


def test_importance_that_is_not_there(fitter: Fitter) -> None:
    assert FIT_TIERS["fit-mini"] == "mini"
    with pytest.raises(ImatrixError, match="The tier fit-mini of the size of mini needs an"):
        fitter.fit(Wish(like="mini"), "fit-mini")
    with pytest.raises(PlanError) as caught:
        fitter.fit(Wish(size=MIB))
    assert "--imatrix" in caught.value.hint


def test_sensitivities_of_others(
    demo_model: Path, dense_model: Path, sensitivity: Sensitivity, tmp_path: Path
) -> None:
    wish = Wish(size=20 * MIB)
    with pytest.raises(SensitivityError, match="of the architecture"):
        apex.fit(dense_model, sensitivity, wish)
    nothing = replace(sensitivity, groups=tuple(replace(g, probes=()) for g in sensitivity.groups))
    with pytest.raises(SensitivityError, match="no measurement yet"):
        apex.fit(demo_model, nothing, wish)
    save_sensitivity(sensitivity, tmp_path / "s.json")
    found = apex.fit(demo_model, tmp_path / "s.json", wish)
    assert str(tmp_path / "s.json") in found.plan.inputs


def test_what_the_user_should_know(demo_model: Path, sensitivity: Sensitivity) -> None:
    def notes(given: Sensitivity) -> str:
        return "\n".join(apex.fit(demo_model, given, Wish(size=20 * MIB)).best.notes)

    assert "sensitivity" not in notes(sensitivity)
    assert "The sensitivity is incomplete" in notes(replace(sensitivity, is_complete=False))
    measured = replace(sensitivity, imatrix="0" * 64)
    assert "was measured with an importance matrix, and without one" in notes(measured)


def test_what_another_rounding_means_for_predictions(demo_model: Path, tmp_path: Path) -> None:
    matrix, path = tmp_path / "imatrix.gguf", tmp_path / "moments.gguf"
    tensors = apex.open_model(demo_model).tensors
    specs = [TensorSpec(each.name, tuple(reversed(each.shape)), each.type) for each in tensors]
    imatrix.write_gguf(matrix, imatrix.random_imatrix(ModelSpec("", {}, tuple(specs))))
    tensor = next(each for each in tensors if each.name == "blk.0.ssm_out.weight")
    inputs = np.random.default_rng(1).standard_normal((300, tensor.columns))
    moments.write_moments(path, {tensor.name: moments.entry_of([inputs])})
    plain = sensitivity_of(demo_model, matrix)
    digest = load_second_moments(path).digest
    own = replace(plain, rounding="compensated", second_moments=digest)

    def notes(given: Sensitivity, rounding: str) -> str:
        file = path if rounding == "compensated" else None
        found = apex.fit(
            demo_model, given, Wish(size=20 * MIB),
            imatrix=matrix, rounding=rounding, second_moments=file,
        )  # fmt: skip
        assert found.plan.rounding == rounding
        return "\n".join(found.best.notes)

    assert "sensitivity" not in notes(own, "compensated") + notes(plain, "reference")
    assert (
        "The sensitivity was measured with reference rounding, so that what is predicted of "
        "compensated is less certain; apex measure --rounding compensated measures it."
    ) in notes(plain, "compensated")
    assert "measured with compensated rounding" in notes(own, "unshrunk")
    other = replace(own, second_moments="0" * 64)
    assert f"with other second moments, so that what is predicted with {path}" in notes(
        other, "compensated"
    )


def test_a_header_alone_can_be_fitted(
    demo_model: Path, sensitivity: Sensitivity, tmp_path: Path
) -> None:
    whole = demo_model.read_bytes()
    header = apex.plan(demo_model, file_type="COPY").files[0].header_bytes
    (tmp_path / "header.gguf").write_bytes(whole[:header])
    found = apex.fit(tmp_path / "header.gguf", sensitivity, Wish(size=20 * MIB))
    assert found.types == apex.fit(demo_model, sensitivity, Wish(size=20 * MIB)).types


@pytest.mark.parametrize("name", ["qwen35moe", "qwen3moe", "llama", "deepseek2", "gemma3", "mamba"])
def test_architectures(tmp_path: Path, name: str) -> None:
    """Rows of 96 and of 80 among them, which few types fit, or none."""
    (model,) = write_model(tmp_path / "model.gguf", architectures()[name])
    sensitivity = sensitivity_of(model)
    for like in ("Q5_K_M", "Q4_K_S", "quality"):
        found = apex.fit(model, sensitivity, Wish(like=like))
        assert found.budget is not None
        assert 0.99 * found.budget <= found.plan.file_bytes <= found.budget
        assert found.plan.fallbacks == ()
        (rival,) = (rival for rival in found.rivals if rival.name == like)
        assert found.predicted is not None and rival.loss is not None
        assert found.predicted < rival.loss


def test_predictions_are_corrected_by_anchors(demo_model: Path, sensitivity: Sensitivity) -> None:
    """KL = 0.001 + 2 x loss in these anchors; the choice of a size is the same."""
    anchors = tuple(Anchor(f"{loss}", loss, 0.001 + 2 * loss, 0.0) for loss in (0.3, 0.1, 0.03))
    corrected = Fitter(demo_model, replace(sensitivity, anchors=anchors))
    wish = Wish(size=20 * MIB)
    found, plain = corrected.fit(wish), apex.fit(demo_model, sensitivity, wish)
    assert found.types == plain.types
    assert found.loss == plain.loss == plain.predicted
    assert found.loss is not None and found.predicted is not None
    assert found.predicted == pytest.approx(0.001 + 2 * found.loss, rel=0.2)
    under = corrected.fit(Wish(kl=0.05))
    assert under.predicted is not None and 0.045 < under.predicted <= 0.05
    with pytest.raises(PlanError, match="the least is"):
        corrected.fit(Wish(kl=1e-5))


@pytest.mark.parametrize("option", ["output_tensor_type", "token_embedding_type"])
def test_a_type_for_an_embedding_that_is_the_output_too(tmp_path: Path, option: str) -> None:
    tensors = llama_tensors()
    del tensors["output.weight"]
    write_llama(tmp_path / "tied.gguf", tensors)
    model = tmp_path / "tied.gguf"
    size = apex.plan(model, file_type="Q4_K_M").file_bytes + 200_000
    given = {option: "Q8_0"}
    found = apex.fit(model, sensitivity_of(model), Wish(size=size), **given)  # type: ignore[arg-type]
    assert types_of(found.plan).items() >= found.types.items()
    assert 0.995 * size <= found.plan.file_bytes <= size
    if option == "token_embedding_type":
        assert types_of(found.plan)["token_embd.weight"] == "Q8_0"
    else:  # llama.cpp takes it for the tensor of that name alone
        assert "token_embd.weight" in found.types
