"""The seams that other features stand on, each proven from outside."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest
from seams.generated import GeneratedSource
from support import imatrix
from support.architectures import architectures, write_model
from support.commands import environment

import apex
from apex.errors import ImatrixError, ModelFileError, PlanError, UsageError
from apex.planning import plan_from_dict
from apex.quantizing import (
    Slab,
    Worker,
    is_done,
    output_name,
    register_workers,
    unregister_workers,
)
from apex.quantizing.slabs import Slabs
from apex.quantizing.workers import Processor

SPEC = architectures()["qwen35moe"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("seams") / "Model-F16.gguf"
    write_model(path, SPEC)
    return path


@pytest.fixture(scope="module")
def matrix(model: Path) -> Path:
    path = model.with_name("matrix.gguf")
    imatrix.write_gguf(path, imatrix.random_imatrix(SPEC))
    return path


class TestTypesByName:
    """A plan from a mapping of names to types, as an optimizer would make it."""

    def test_names_win_over_the_tier_and_rules_over_names(self, model: Path) -> None:
        names = {"blk.0.attn_q.weight": "q8_0", "blk.1.ffn_up_exps.weight": "Q5_K"}
        plan = apex.plan(
            model,
            tier="compact",
            types=names,
            types_origin="an optimizer",
            tensor_types=["ffn_up_exps=q4_0"],
        )
        by_name = {tensor.name: tensor for tensor in plan.tensors}
        given = [t for t in plan.tensors if t.decided_by == "mapping"]
        assert {t.name for t in given} <= set(names)
        for tensor in given:
            assert tensor.wanted == names[tensor.name].upper()
            assert tensor.reason.startswith("an optimizer")
        assert by_name["blk.1.ffn_up_exps.weight"].wanted == "Q4_0"
        assert by_name["blk.0.ffn_down_exps.weight"].decided_by == "tier"

    def test_the_types_of_a_plan_make_the_same_plan(self, model: Path, tmp_path: Path) -> None:
        first = apex.plan(model, tier="quality")
        types = {t.name: t.wanted for t in first.tensors if t.decided_by in ("tier", "file type")}
        second = apex.plan(model, file_type=first.file_type, types=types)
        assert [(t.name, t.type, t.offset) for t in second.tensors] == [
            (t.name, t.type, t.offset) for t in first.tensors
        ]
        assert second.fingerprint() == first.fingerprint()
        assert second.tensor_type_file() == first.tensor_type_file()

    def test_a_name_that_the_model_does_not_have(self, model: Path) -> None:
        with pytest.raises(UsageError, match=r"no tensor blk\.0\.attn_k\.weigth") as caught:
            apex.plan(model, tier="quality", types={"blk.0.attn_k.weigth": "Q8_0"})
        assert "attn_k.weight" in caught.value.hint or "attn" in caught.value.hint
        with pytest.raises(UsageError, match=r"no type Q9 to quantize to \(output\.weight\)"):
            apex.plan(model, tier="quality", types={"output.weight": "Q9"})


CARRY_OUT = """
import pickle, sys, apex
with open(sys.argv[1], "rb") as file:
    plan = pickle.load(file)
print(apex.quantize(plan, sys.argv[2], threads=1).plan.fingerprint())
"""


class TestPlanAsData:
    def test_a_plan_travels_to_another_process(
        self, model: Path, matrix: Path, tmp_path: Path
    ) -> None:
        plan = apex.plan(model, tier="mini", imatrix=matrix, split_max_size=100_000)
        apex.quantize(plan, tmp_path / "here.gguf")
        (tmp_path / "plan").write_bytes(pickle.dumps(plan))
        there = subprocess.run(
            [sys.executable, "-c", CARRY_OUT, tmp_path / "plan", tmp_path / "there.gguf"],
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout.strip() == plan.fingerprint()
        ours = sorted(tmp_path.glob("here-*"))
        theirs = sorted(tmp_path.glob("there-*"))
        assert len(ours) == len(theirs) == len(plan.files) > 1
        assert [path.read_bytes() for path in ours] == [path.read_bytes() for path in theirs]

    def test_json_is_the_plan(self, model: Path, matrix: Path, tmp_path: Path) -> None:
        for options in (
            {"tier": "mini", "imatrix": matrix},
            {"file_type": "COPY"},
            {"file_type": "Q4_K_M", "overrides": {"a.b": True, "c": 0.5, "d": "text", "e": 3}},
        ):
            plan = apex.plan(model, **options)
            (tmp_path / "plan.json").write_text(json.dumps(plan.to_dict()))
            assert apex.load_plan(tmp_path / "plan.json") == plan

    def test_fingerprints_tell_bytes_apart(self, model: Path, matrix: Path) -> None:
        plans = [
            apex.plan(model, tier="quality"),
            apex.plan(model, tier="i-quality", imatrix=matrix),
            apex.plan(model, tier="quality", split_max_size=100_000),
            apex.plan(model, tier="quality", overrides={"a": 1}),
            apex.plan(model, tier="quality", tensor_types=["attn_q=q8_0"]),
        ]
        assert len({plan.fingerprint() for plan in plans}) == len(plans)
        assert apex.plan(model, tier="quality").fingerprint() == plans[0].fingerprint()

    def test_every_byte_of_the_output_has_its_place(self, model: Path, tmp_path: Path) -> None:
        plan = apex.plan(model, tier="quality")
        apex.quantize(plan, tmp_path / "out.gguf")
        written = {t.name: t for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
        for tensor in plan.tensors:
            assert written[tensor.name].data_offset == tensor.offset
            assert int(written[tensor.name].n_bytes) == tensor.bytes

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"format": "a recipe"}, "not a plan"),
            ({"version": 99}, "of version 99"),
            ({"fingerprint": "0"}, "fingerprint"),
            ({"tensors": []}, "damaged"),
            ({"files": None}, "damaged"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_damaged_plan(self, model: Path, change: dict[str, object], message: str) -> None:
        data = apex.plan(model, tier="quality").to_dict()
        with pytest.raises(PlanError, match=message):
            plan_from_dict({**data, **change})

    def test_files_that_are_not_plans(self, tmp_path: Path) -> None:
        for content in ("", "[" * 100_000, "[]", '{"a": 1}', "\xff"):
            (tmp_path / "plan.json").write_text(content, encoding="latin-1")
            with pytest.raises(PlanError):
                apex.load_plan(tmp_path / "plan.json")
        with pytest.raises(PlanError, match="cannot be read"):
            apex.load_plan(tmp_path / "missing.json")

    def test_what_the_plan_was_made_from_must_not_change(
        self, model: Path, matrix: Path, tmp_path: Path
    ) -> None:
        copy, own = tmp_path / "model.gguf", tmp_path / "matrix.gguf"
        copy.write_bytes(model.read_bytes())
        own.write_bytes(matrix.read_bytes())
        plan = apex.plan(copy, tier="mini", imatrix=own)
        entries = imatrix.random_imatrix(SPEC)
        next(iter(entries.values()))[0][:] += 1
        imatrix.write_gguf(own, entries)
        with pytest.raises(ImatrixError, match="has changed since"):
            apex.quantize(plan, tmp_path / "out.gguf")
        apex.quantize(copy, tmp_path / "other.gguf", file_type="Q8_0")
        copy.write_bytes((tmp_path / "other.gguf").read_bytes())
        with pytest.raises(ModelFileError, match="has changed since"):
            apex.quantize(plan, tmp_path / "out.gguf")
        assert not (tmp_path / "out.gguf").exists()


class TestGeneratedSource:
    """A model that exists only as a formula."""

    def test_it_is_quantized_as_its_file_would_be(self, tmp_path: Path) -> None:
        source = GeneratedSource(layers=2, hidden=256, width=128, experts=4)
        apex.quantize(source, tmp_path / "f16.gguf", file_type="COPY")
        written = gguf.GGUFReader(tmp_path / "f16.gguf")
        for tensor, planned in zip(
            written.tensors, apex.plan(source, file_type="COPY").tensors, strict=True
        ):
            expected = source.values(planned.source, 0, planned.source.rows)
            assert np.array_equal(np.asarray(tensor.data).reshape(expected.shape), expected)
        apex.quantize(tmp_path / "f16.gguf", tmp_path / "file.gguf", tier="compact")
        apex.quantize(source, tmp_path / "formula.gguf", tier="compact")
        assert (tmp_path / "file.gguf").read_bytes() == (tmp_path / "formula.gguf").read_bytes()
        report = apex.verify(tmp_path / "formula.gguf", source)
        assert (
            report.to_dict()["roles"]
            == (apex.verify(tmp_path / "file.gguf", tmp_path / "f16.gguf").to_dict()["roles"])
        )

    def test_a_model_of_a_terabyte(self) -> None:
        """Planned from its shapes; one layer's experts are quantized and measured."""
        source = GeneratedSource(layers=60, hidden=7168, width=2048, experts=384)
        plan = apex.plan(source, tier="balanced")
        assert source.reads == 0
        assert plan.model.bytes > 1 << 40
        assert plan.weights == sum(tensor.weights for tensor in source.tensors)
        assert plan.tensors[-1].offset + plan.tensors[-1].bytes <= plan.file_bytes
        with pytest.raises(ModelFileError, match="is not a GGUF file"):
            apex.quantize(plan, "never.gguf")
        part = GeneratedSource(layers=1, hidden=7168, width=64, experts=2)
        errors = apex.measure_errors(apex.plan(part, tier="balanced"), source=part)
        assert part.reads == part.reference.bytes
        assert 0 < errors["blk.0.ffn_up_exps.weight"].rmse < 0.05


def test_a_sink_that_measures_and_keeps_nothing(model: Path, matrix: Path, tmp_path: Path) -> None:
    plan = apex.plan(model, tier="mini", imatrix=matrix)
    before = sorted(tmp_path.iterdir())
    errors = apex.measure_errors(plan)
    assert sorted(tmp_path.iterdir()) == before
    apex.quantize(plan, tmp_path / "out.gguf")
    report = apex.verify(tmp_path / "out.gguf", model, imatrix=matrix)
    assert set(errors) == {tensor.name for tensor in report.tensors}
    for tensor in report.tensors:
        measured = errors[tensor.name]
        assert measured.rmse == pytest.approx(tensor.rmse, rel=1e-9)
        planned = next(t for t in plan.tensors if t.name == tensor.name)
        if planned.importance is not None:
            assert measured.weighted_rmse == pytest.approx(tensor.weighted_rmse, rel=1e-9)


class TestSeveralTargets:
    def test_one_pass_gives_the_bytes_of_single_runs(
        self, model: Path, matrix: Path, tmp_path: Path
    ) -> None:
        options: list[dict[str, object]] = [
            {"tier": "quality"},
            {"tier": "i-quality", "imatrix": matrix},
            {"tier": "mini", "imatrix": matrix},
            {"file_type": "Q4_K_M", "split_max_size": 100_000},
            {"file_type": "COPY"},
        ]
        source = apex.open_model(model)
        plans = [apex.plan(source, **chosen) for chosen in options]  # type: ignore[arg-type]
        outputs = {tmp_path / "joint" / output_name(plan): plan for plan in plans}
        results = apex.quantize_all(outputs, source=source)
        assert [result.plan for result in results] == plans
        for chosen, result in zip(options, results, strict=True):
            alone = apex.quantize(model, tmp_path / "alone.gguf", overwrite=True, **chosen)  # type: ignore[arg-type]
            assert [path.read_bytes() for path in alone.paths] == [
                path.read_bytes() for path in result.paths
            ]
            assert is_done(result.plan, tmp_path / "joint" / output_name(result.plan))

    def test_every_row_is_read_once(self) -> None:
        source = GeneratedSource(layers=2, hidden=256, width=128, experts=4)
        plans = [apex.plan(source, tier=tier) for tier in ("quality", "compact")]
        total = source.reference.bytes
        for plan in plans:
            apex.measure_errors(plan, source=source)
        assert source.reads == 2 * total

    def test_names(self, model: Path, matrix: Path) -> None:
        names = [
            output_name(apex.plan(model, tier="i-quality", imatrix=matrix)),
            output_name(apex.plan(model, tier="compact")),
            output_name(apex.plan(model, file_type="Q4_K_M")),
        ]
        assert names == [
            "Model-APEX-I-Quality.gguf",
            "Model-APEX-Compact.gguf",
            "Model-Q4_K_M.gguf",
        ]

    def test_plans_of_different_models(self, model: Path, tmp_path: Path) -> None:
        other = GeneratedSource(layers=1, hidden=256, width=64, experts=2)
        plans = [apex.plan(model, tier="quality"), apex.plan(other, tier="quality")]
        outputs = {tmp_path / f"{index}.gguf": plan for index, plan in enumerate(plans)}
        with pytest.raises(UsageError, match="different models"):
            apex.quantize_all(outputs)
        assert list(tmp_path.iterdir()) == []

    def test_what_is_half_done_is_not_done(self, model: Path, tmp_path: Path) -> None:
        plan = apex.plan(model, tier="quality")
        output = tmp_path / "out.gguf"
        assert not is_done(plan, output)
        apex.quantize(plan, output)
        assert is_done(plan, output)
        assert not is_done(apex.plan(model, tier="compact"), output)
        os.utime(output, ns=(0, 0))  # as if the model were newer
        assert not is_done(plan, output)
        data = output.read_bytes()
        output.write_bytes(data[:-32])
        assert not is_done(plan, output)


class Counting:
    """A worker that lets the processor work, counts, and gives slabs back in another order."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.slabs = 0

    def run(self, work: Slabs, done: Callable[[Slab], None]) -> None:
        while (slab := work.get()) is not None:
            self.processor.quantize(slab)
            self.slabs += 1
            done(slab)
        work.put(None)


@pytest.fixture
def counting() -> Iterator[list[Counting]]:
    made: list[Counting] = []

    def make(processor: Processor) -> Sequence[Worker]:
        made.extend(Counting(processor) for _ in range(3))
        return made

    register_workers("counting", make)
    yield made
    unregister_workers("counting")


def test_a_worker_that_a_test_registers(
    model: Path, tmp_path: Path, counting: list[Counting]
) -> None:
    apex.quantize(model, tmp_path / "one.gguf", tier="quality", backend="cpu")
    apex.quantize(model, tmp_path / "two.gguf", tier="quality", backend="counting")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()
    assert len(counting) == 3
    assert sum(worker.slabs for worker in counting) >= len(apex.open_model(model).tensors)


LIGHT = """
import sys
import apex
assert not {"numpy", "apex._core", "rich"} & set(sys.modules)
import apex.policy
sys.modules["apex._core"] = None  # importing it would fail
layout = apex.policy.Layout(block_count=40, expert_count=8)
recipe = apex.load_recipe("quality")
print(apex.policy.choose("blk.12.ffn_up_exps.weight", layout, recipe).type, len(apex.tiers()))
"""


def test_the_policy_works_without_the_extension() -> None:
    result = subprocess.run(
        [sys.executable, "-c", LIGHT], env=environment(), capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["IQ4_XS", "9"]
