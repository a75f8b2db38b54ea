"""What calibrating and comparing cost beside running the model: the same threads and tokens."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
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
ROUNDS = 5
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


def side_by_side(benchmark, sides: dict[str, Callable[[], object]]) -> None:
    """Run all sides in turn, round by round, so that a slow minute is everyone's.

    Beside what the clock says, processor time, which other programs do not add to; but threads that
    wait for one another spend it too, so it compares sides that run on one processor.
    """
    clocks = {"": time.perf_counter, "processor ": time.process_time}
    times: dict[str, dict[str, list[float]]] = {
        clock: {who: [] for who in sides} for clock in clocks
    }

    def one_round() -> None:
        for who, run in sides.items():
            begin = {clock: now() for clock, now in clocks.items()}
            run()
            for clock, now in clocks.items():
                times[clock][who].append(now() - begin[clock])

    benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=1)
    first, *others = sides
    benchmark.extra_info["processors"] = _core.available_threads()
    for clock, found in times.items():
        medians = {who: float(np.median(t[1:])) for who, t in found.items()}
        benchmark.extra_info[f"median {clock}seconds"] = medians
        for who in others:
            ratios = np.array(found[first][1:]) / np.array(found[who][1:])
            name = f"{clock}speed of {who} over {first}"
            benchmark.extra_info[name] = float(np.median(ratios))


def bench_imatrix(benchmark, model: Path, tmp_path: Path) -> None:
    """``apex imatrix`` against a plain pass over the same chunks."""
    text = Text("prose", built_in_text("prose").encode())

    def imatrix(*, mtp: bool) -> None:
        options = CollectOptions(chunks=CHUNKS, mtp=mtp, save_every=10**6)
        calibrate(model, tmp_path / "a.gguf", [text], options=options, overwrite=True)

    def moments() -> None:
        options = CollectOptions(chunks=CHUNKS, mtp=False, save_every=10**6)
        matrix, path = tmp_path / "a.gguf", tmp_path / "moments.gguf"
        calibrate(model, matrix, [text], options=options, second_moments=path, overwrite=True)

    side_by_side(
        benchmark,
        {
            "plain prompt processing": lambda: plain_pass(model, outputs=False),
            "imatrix": lambda: imatrix(mtp=False),
            "second moments": moments,
            "imatrix with head": lambda: imatrix(mtp=True),
        },
    )


def bench_divergence(benchmark, model: Path, tmp_path: Path) -> None:
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
        base_bytes.append(base.stat().st_size)
        base.unlink()
        return second

    def both_open() -> Evaluator:
        evaluator = Evaluator([quantized], options, reference=model)
        evaluator.run()
        return evaluator

    base_bytes: list[int] = []
    assert by_file().models[0].divergence == both_open().models[0].divergence
    side_by_side(benchmark, {"two passes and a base file": by_file, "both models open": both_open})
    benchmark.extra_info["base_bytes"] = base_bytes[0]


@pytest.mark.parametrize("others", ["idle", "busy"])
@pytest.mark.parametrize("what", ["pp512", "tg128"])
def bench_threads(benchmark, model: Path, what: str, others: str) -> None:
    """One thread, all of them, and apex's choice (0), with a busy process on each processor."""
    _, loaded = load_model(model)
    everyone = _core.available_threads()
    sides = {
        str(threads): _core.Context(loaded, context_length=512, batch_size=512, threads=threads)
        for threads in dict.fromkeys((1, everyone, 0))
    }
    tokens = np.random.default_rng(1).integers(0, loaded.vocabulary_size, 512, np.int32)
    count, step = (512, 512) if what == "pp512" else (128, 1)

    def run(context: _core.Context) -> None:
        context.clear()
        for begin in range(0, count, step):
            positions = np.arange(begin, begin + step, dtype=np.int32)
            sequences, outputs = np.zeros_like(positions), positions == begin + step - 1
            context.decode(tokens[positions], positions, sequences, outputs)

    busy = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(everyone if others == "busy" else 0)
    ]
    try:
        side_by_side(benchmark, {f"{n} threads": partial(run, c) for n, c in sides.items()})
    finally:
        for process in busy:
            process.kill()
            process.wait()


def bench_accumulation(benchmark) -> None:
    """The sums alone: a product's inputs of 512 tokens and 2048 columns."""
    rows = np.random.default_rng(0).standard_normal((512, 2048), dtype=np.float32)
    accumulator = _core.Accumulator()
    benchmark(accumulator.add, "a", rows)
    benchmark.extra_info.update(values=rows.size)


@pytest.mark.parametrize("columns", [256, 2048])
def bench_moments(benchmark, columns: int) -> None:
    """The second moments alone, on one thread, of a dense product's inputs."""
    rows = np.random.default_rng(0).standard_normal((512, columns), dtype=np.float32)
    moments = _core.Moments(threads=1)

    def add() -> None:
        moments.add("a", rows)
        moments.entry("a")

    benchmark(add)
    benchmark.extra_info.update(products=len(rows) * columns * (columns + 1) // 2)
