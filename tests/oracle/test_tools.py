"""Against what llama.cpp's own tools printed (tests/golden/make.py): the same digits.

Low digits depend on the instruction sets that ggml's inference uses. With those of the goldens'
machine everything must be the same; with others it must be close.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import language

import apex
from apex import _core
from apex.calibration import CollectOptions, read_texts
from apex.evaluation import Divergence, EvalOptions, Evaluator, ModelResult

pytestmark = pytest.mark.xdist_group("tools")

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/tools.json").read_text(encoding="utf-8"))
PRINTED: dict[str, Any] = GOLDEN["printed"]
SAME_MACHINE = _core.inference_features() == GOLDEN["features"]
TASKS = 120
EXTREME = re.compile(r" *(Maximum|Minimum|99\.9%|0\.1%) ")


@pytest.fixture(scope="module")
def folder(
    language_model: Path, demo_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("tools")
    (path / "llama.gguf").symlink_to(language_model)
    (path / "demo.gguf").symlink_to(demo_model)
    apex.quantize(path / "llama.gguf", path / "llama-q.gguf", file_type="Q3_K_M")
    apex.quantize(
        path / "demo.gguf", path / "demo-q.gguf", tier="compact", edge_layers=1, near_layers=1
    )
    shared = Path(__file__).parents[3] / "shared/models/small-hybrid-moe-f16.gguf"
    if shared.exists():
        (path / "trained.gguf").symlink_to(shared)
        apex.quantize(
            shared, path / "trained-q.gguf", tier="balanced", edge_layers=2, near_layers=2
        )
    for name, digest in GOLDEN["models"].items():
        if not (path / name).exists():
            continue
        if hashlib.sha256((path / name).read_bytes()).hexdigest() != digest:
            pytest.skip(f"this numpy makes another {name} than that of the goldens")
    language.write_text(path / "text.txt")
    language.write_hellaswag(path / "hellaswag.txt", TASKS)
    language.write_winogrande(path / "winogrande.csv", TASKS)
    language.write_multiple_choice(path / "multiple-choice.bin", TASKS)
    return path


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


def assert_printed(ours: str, theirs: str) -> None:
    """The same text. On another machine, or by a rounding of the last digit, close numbers."""
    if ours == theirs:
        return
    # A zero may have another sign, which takes the place of a space.
    assert re.sub(r" *[\d.-]+", "#", ours) == re.sub(r" *[\d.-]+", "#", theirs)
    if SAME_MACHINE:
        assert numbers(ours) == pytest.approx(numbers(theirs), rel=1e-9, abs=1.1e-6)
        return
    for own, other in zip(ours.splitlines(), theirs.splitlines(), strict=True):
        # Low digits decide which experts a few tokens get, and so the most extreme positions.
        if not EXTREME.match(own):
            assert numbers(own) == pytest.approx(numbers(other), rel=0.05, abs=0.5)


@pytest.fixture(
    scope="module",
    params=["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("demo", "trained"))],
)
def name(request: pytest.FixtureRequest, folder: Path) -> str:
    """A model of the goldens."""
    if not (folder / f"{request.param}.gguf").exists():
        pytest.skip("the trained model is not here")
    return request.param


@pytest.fixture(scope="module")
def evaluated(name: str, folder: Path) -> Evaluator:
    evaluator = Evaluator(
        [folder / f"{name}-q.gguf"],
        EvalOptions(text=folder / "text.txt", file_hash=False),
        reference=folder / f"{name}.gguf",
        write_base=folder / f"{name}.kld",
    )
    evaluator.run()
    return evaluator


def printed_perplexity(result: ModelResult) -> str:
    assert result.perplexity is not None
    ppl = result.perplexity.ppl
    return f"PPL = {ppl.value:.4f} +/- {ppl.error:.5f}"


def printed_divergence(result: ModelResult) -> str:
    """As llama-perplexity prints it."""
    d: Divergence | None = result.divergence
    assert d is not None

    def pair(value: Any, factor: float = 1.0) -> str:
        return f"{factor * value.value:10.6f} ± {factor * value.error:10.6f}"

    kl, dp = d.kl_percentiles, d.dp_percentiles
    lines = [
        f"Mean PPL(Q)                   : {pair(d.ppl)}",
        f"Mean PPL(base)                : {pair(d.reference_ppl)}",
        f"Cor(ln(PPL(Q)), ln(PPL(base))): {100 * d.correlation:6.2f}%",
        f"Mean ln(PPL(Q)/PPL(base))     : {pair(d.log_ratio)}",
        f"Mean PPL(Q)/PPL(base)         : {pair(d.ratio)}",
        f"Mean PPL(Q)-PPL(base)         : {pair(d.difference)}",
        "",
        "====== KL divergence statistics ======",
        f"Mean    KLD: {pair(d.kl)}",
        f"Maximum KLD: {kl['maximum']:10.6f}",
        f"99.9%   KLD: {kl['p99.9']:10.6f}",
        f"99.0%   KLD: {kl['p99']:10.6f}",
        f"95.0%   KLD: {kl['p95']:10.6f}",
        f"90.0%   KLD: {kl['p90']:10.6f}",
        f"Median  KLD: {kl['median']:10.6f}",
        f"10.0%   KLD: {kl['p10']:10.6f}",
        f" 5.0%   KLD: {kl['p5']:10.6f}",
        f" 1.0%   KLD: {kl['p1']:10.6f}",
        f" 0.1%   KLD: {kl['p0.1']:10.6f}",
        f"Minimum KLD: {kl['minimum']:10.6f}",
        "",
        "====== Token probability statistics ======",
        f"Mean    Δp: {100 * d.dp.value:6.3f} ± {100 * d.dp.error:5.3f} %",
        f"Maximum Δp: {100 * dp['maximum']:6.3f}%",
        f"99.9%   Δp: {100 * dp['p99.9']:6.3f}%",
        f"99.0%   Δp: {100 * dp['p99']:6.3f}%",
        f"95.0%   Δp: {100 * dp['p95']:6.3f}%",
        f"90.0%   Δp: {100 * dp['p90']:6.3f}%",
        f"75.0%   Δp: {100 * dp['p75']:6.3f}%",
        f"Median  Δp: {100 * dp['median']:6.3f}%",
        f"25.0%   Δp: {100 * dp['p25']:6.3f}%",
        f"10.0%   Δp: {100 * dp['p10']:6.3f}%",
        f" 5.0%   Δp: {100 * dp['p5']:6.3f}%",
        f" 1.0%   Δp: {100 * dp['p1']:6.3f}%",
        f" 0.1%   Δp: {100 * dp['p0.1']:6.3f}%",
        f"Minimum Δp: {100 * dp['minimum']:6.3f}%",
        f"RMS Δp    : {100 * d.dp_rms.value:6.3f} ± {100 * d.dp_rms.error:5.3f} %",
        f"Same top p: {100 * d.same_top.value:6.3f} ± {100 * d.same_top.error:5.3f} %",
    ]
    return "\n".join(lines)


def test_divergence_is_what_llama_perplexity_prints(name: str, evaluated: Evaluator) -> None:
    assert evaluated.reference is not None
    text = printed_perplexity(evaluated.reference)
    assert_printed(text, PRINTED[f"{name} perplexity with base file"])
    assert_printed(printed_divergence(evaluated.models[0]), PRINTED[f"{name} divergence"])


def test_base_file_is_that_of_llama_perplexity(
    name: str, evaluated: Evaluator, folder: Path
) -> None:
    path = folder / f"{name}.kld"
    if SAME_MACHINE:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == PRINTED[f"{name} base file"]
    again = Evaluator([folder / f"{name}-q.gguf"], EvalOptions(file_hash=False), base=path)
    again.run()
    assert again.models[0].divergence == evaluated.models[0].divergence


@pytest.mark.slow
def test_perplexity_and_tasks_are_what_llama_perplexity_prints(folder: Path, name: str) -> None:
    evaluator = Evaluator(
        [folder / f"{name}.gguf"],
        EvalOptions(
            text=folder / "text.txt",
            tasks=[
                ("hellaswag", folder / "hellaswag.txt", None),
                ("winogrande", folder / "winogrande.csv", None),
                ("multiple-choice", folder / "multiple-choice.bin", 100),
            ],
            file_hash=False,
        ),
    )
    evaluator.run()
    (result,) = evaluator.models
    assert_printed(printed_perplexity(result), PRINTED[f"{name} perplexity"])
    hellaswag, winogrande, multiple = result.tasks
    low, high = hellaswag.interval
    text = f"{TASKS}\t{100 * hellaswag.accuracy:.8f}%\t[{100 * low:.4f}%, {100 * high:.4f}%]"
    assert_printed(text, PRINTED[f"{name} hellaswag"])
    text = (
        f"Final Winogrande score({winogrande.tasks} tasks): {100 * winogrande.accuracy:.4f} +/- "
        f"{100 * winogrande.error:.4f}"
    )
    assert_printed(text, PRINTED[f"{name} winogrande"])
    text = f"Final result: {100 * multiple.accuracy:.4f} +/- {100 * multiple.error:.4f}"
    assert_printed(text, PRINTED[f"{name} multiple choice"])


def test_imatrix_is_that_of_llama_imatrix(folder: Path, tmp_path: Path, name: str) -> None:
    golden = PRINTED[f"{name} imatrix"]
    apex.calibrate(
        folder / f"{name}.gguf",
        tmp_path / "imatrix.gguf",
        read_texts([folder / "text.txt"]),
        options=CollectOptions(output_matrix=True, mtp=False),
    )
    ours = apex.ImportanceAccumulator.load([tmp_path / "imatrix.gguf"]).entries
    assert set(ours) == set(golden)
    for tensor, entry in ours.items():
        theirs = golden[tensor]
        sums = entry.sums.astype(np.float64).sum(axis=1)
        if SAME_MACHINE:
            assert entry.counts.tolist() == theirs["counts"], tensor
            np.testing.assert_allclose(sums, theirs["sums"], rtol=1e-6, err_msg=tensor)
            digest = hashlib.sha256(entry.sums.tobytes()).hexdigest()
            assert digest == theirs["sha256"], tensor
        else:
            assert len(entry.counts) == len(theirs["counts"])
            # Other low digits may send a token to another expert.
            np.testing.assert_allclose(sums.sum(), sum(theirs["sums"]), rtol=0.01, err_msg=tensor)
