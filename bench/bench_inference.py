"""What calibrating and comparing cost beside running the model: the same threads and tokens."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import apex
from apex import _core
from apex.calibration import CollectOptions
from apex.calibration.collect import calibrate
from apex.calibration.documents import Text, built_in_text
from apex.demo import write_demo_model
from apex.evaluation import EvalOptions, Evaluator
from apex.inference import RunOptions, batches, chunks_of, load_model, make_context

CHUNKS = 16
RUN = RunOptions()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the user's (APEX_BENCH_MODEL), or the demo's."""
    given = os.environ.get("APEX_BENCH_MODEL")
    if given:
        return Path(given)
    path = tmp_path_factory.mktemp("model") / "demo.gguf"
    write_demo_model(path)
    return path


def plain_pass(model: Path, *, outputs: bool) -> int:
    """Prompt processing of the same chunks, with all logits or only the last; returns tokens."""
    file, loaded = load_model(model)
    tokens = loaded.tokenize(built_in_text("prose").encode())
    chunks = chunks_of(tokens, RUN.context_length)[:CHUNKS]
    context = make_context(file, loaded, RUN)
    first = RUN.context_length // 2 if outputs else RUN.context_length - 1
    for batch in batches(chunks, RUN, loaded, first_output=first):
        context.clear()
        context.decode(batch.tokens, batch.positions, batch.sequences, batch.outputs)
    return chunks.size


@pytest.mark.parametrize("who", ["plain prompt processing", "imatrix", "imatrix with head"])
def bench_imatrix(benchmark, model: Path, tmp_path: Path, who: str) -> None:
    """``apex imatrix`` against a plain pass over the same chunks."""
    text = Text("prose", built_in_text("prose").encode())

    def run() -> int:
        if who == "plain prompt processing":
            return plain_pass(model, outputs=False)
        options = CollectOptions(chunks=CHUNKS, mtp=who == "imatrix with head", save_every=10**6)
        result = calibrate(model, tmp_path / "a.gguf", [text], options=options, overwrite=True)
        return result.tokens

    tokens = benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    benchmark.group = "imatrix"
    benchmark.extra_info.update(who=who, tokens=tokens)


@pytest.mark.parametrize("who", ["two passes and a base file", "both models open"])
def bench_divergence(benchmark, model: Path, tmp_path: Path, who: str) -> None:
    """KL by way of a base file against both models open; the same numbers, checked first."""
    quantized = tmp_path / "q.gguf"
    apex.quantize(model, quantized, tier="compact", edge_layers=1, near_layers=1)
    text = tmp_path / "text.txt"
    text.write_text(built_in_text("prose"), encoding="utf-8")
    options = EvalOptions(run=RUN, text=text, chunks=CHUNKS, file_hash=False)
    base = tmp_path / "base.kld"

    def by_file() -> Evaluator:
        Evaluator([], options, reference=model, write_base=base).run()
        second = Evaluator([quantized], EvalOptions(run=RUN, file_hash=False), base=base)
        second.run()
        return second

    def both_open() -> Evaluator:
        evaluator = Evaluator([quantized], options, reference=model)
        evaluator.run()
        return evaluator

    assert by_file().models[0].divergence == both_open().models[0].divergence
    run = by_file if who == "two passes and a base file" else both_open
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    benchmark.group = "divergence"
    benchmark.extra_info.update(who=who, base_bytes=base.stat().st_size)


def bench_accumulation(benchmark) -> None:
    """The sums alone: a product's inputs of 512 tokens and 2048 columns."""
    rows = np.random.default_rng(0).standard_normal((512, 2048), dtype=np.float32)
    accumulator = _core.Accumulator()
    benchmark(accumulator.add, "a", rows)
    benchmark.group = "accumulation"
    benchmark.extra_info.update(who="apex", values=rows.size)
