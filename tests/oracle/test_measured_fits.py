"""Models of four kinds go through measure, fit, quantize and eval."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.language import write_text
from support.runnable import write_mla, write_moe

import apex
from apex import EvalOptions, MeasureOptions, Wish
from apex.calibration import CollectOptions, read_texts
from apex.files import load_imatrix
from apex.inference import RunOptions

pytestmark = pytest.mark.xdist_group("ggml")

RUN = RunOptions(context_length=64, batch_size=256, micro_batch_size=256, threads=1)


@pytest.fixture
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A dense model, a plain mixture of experts, one with MLA, or the demo's hybrid."""
    path = tmp_path / "model.gguf"
    if request.param == "moe":
        write_moe(path)
    elif request.param == "mla":
        write_mla(path)
    else:
        path = request.getfixturevalue(request.param)
    return path


@pytest.mark.parametrize(
    "model",
    ["tiny_model", "moe", "mla", pytest.param("demo_model", marks=pytest.mark.slow)],
    indirect=True,
)
def test_from_measuring_to_evaluating(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    write_text(text, 6000)
    texts = read_texts([text])
    imatrix = tmp_path / "imatrix.gguf"
    apex.calibrate(model, imatrix, texts, options=CollectOptions(run=RUN, chunks=8))
    matrix = load_imatrix(imatrix)
    measured = apex.measure(
        model, tmp_path / "s.json", matrix, texts, options=MeasureOptions(run=RUN, chunks=2)
    ).sensitivity
    assert measured.is_complete and measured.anchors

    small, large = (
        apex.fit(model, measured, Wish(like=name), imatrix=imatrix) for name in ("IQ3_M", "Q5_K_M")
    )
    assert small.predicted is not None and large.predicted is not None
    assert small.predicted > large.predicted
    files = {}
    for found in (small, large):
        assert found.budget is not None
        assert 0.97 * found.budget < found.plan.file_bytes <= found.budget
        files[found.plan.file_bytes] = tmp_path / f"{found.plan.file_bytes}.gguf"
        apex.quantize(found.plan, files[found.plan.file_bytes])
        assert files[found.plan.file_bytes].stat().st_size == found.plan.file_bytes
    options = EvalOptions(run=RUN, text=text, chunks=8, file_hash=False)
    evaluator = apex.Evaluator(list(files.values()), options, reference=model)
    evaluator.run()
    worse, better = (result.divergence for result in evaluator.models)
    assert worse is not None and better is not None
    assert worse.kl.value > better.kl.value > 0
