"""Tasks: drawing, reading, and choices against continuations that are run alone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from support import language

from apex import _core
from apex.errors import RunError, UsageError
from apex.evaluation import EvalOptions, Evaluator
from apex.evaluation.task_files import Tasks, load_tasks
from apex.evaluation.tasks import run_tasks
from apex.inference import RunOptions, load_model

TASKS = 12


def raw_numbers(count: int) -> list[int]:
    """Of the Mersenne Twister that std::mt19937(1) is, by numpy."""
    generator = np.random.MT19937()
    generator._legacy_seeding(1)
    return [int(number) for number in generator.random_raw(count)]


def test_drawing_as_llama_perplexity_draws() -> None:
    left, drawn = list(range(50)), []
    for number in raw_numbers(20):
        scaled = np.float32(np.float32(1) / np.float32(2**32)) * np.float32(number)
        place = int(scaled * np.float32(len(left)))
        drawn.append(left[place])
        left[place] = left[-1]
        left.pop()
    assert _core.draw_tasks(50, 20) == drawn
    assert _core.draw_tasks(5, 0) == _core.draw_tasks(5, 9) == [0, 1, 2, 3, 4]


def test_drawing_hellaswag_as_libstdcxx_does() -> None:
    """std::uniform_int_distribution by Lemire's method, over the numbers of a 32-bit generator."""
    left, drawn, numbers = list(range(1000)), [], iter(raw_numbers(200))
    while len(drawn) < 100:
        size = len(left)
        product = next(numbers) * size
        while product % 2**32 < (2**32 - size) % size:
            product = next(numbers) * size
        drawn.append(left.pop(product >> 32))
    assert _core.draw_hellaswag(1000, 100) == drawn
    assert sorted(_core.draw_hellaswag(10, 400)) == list(range(10))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks")
    language.write_hellaswag(path / "hellaswag.txt", TASKS)
    language.write_winogrande(path / "winogrande.csv", TASKS)
    language.write_multiple_choice(path / "multiple-choice.bin", TASKS)
    return path


def log_likelihood(model: _core.Model, text: bytes, start: int, end: int | None = None) -> float:
    """Mean ln p of tokens start to end, in double."""
    tokens = model.tokenize(text)
    logits = language.next_logits(model, tokens).astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    places = range(start, len(tokens) if end is None else end)
    return float(np.mean([logits[place - 1, tokens[place]] for place in places]))


def common_prefix(parts: list[np.ndarray]) -> int:
    shortest = min(map(len, parts))
    same = [len({int(part[place]) for part in parts}) == 1 for place in range(shortest)]
    return same.index(False)


@pytest.mark.parametrize("kind", ["hellaswag", "multiple-choice"])
@pytest.mark.parametrize("batch_size", [2048, 48])
def test_choices(language_model: Path, folder: Path, kind: str, batch_size: int) -> None:
    suffix = "txt" if kind == "hellaswag" else "bin"
    tasks = load_tasks(kind, folder / f"{kind}.{suffix}")
    file, model = load_model(language_model)
    result = run_tasks(file, model, tasks, RunOptions(batch_size=batch_size))
    correct = 0
    for choice in tasks.choices:
        start = common_prefix([model.tokenize(text) for text in choice.texts])
        scores = [log_likelihood(model, text, start) for text in choice.texts]
        correct += int(np.argmax(scores)) in choice.correct
    assert (result.correct, result.tasks) == (correct, TASKS)
    answers = sum(len(choice.texts) for choice in tasks.choices)
    assert result.chance == pytest.approx(TASKS / answers)


def test_winogrande_scores_what_follows(language_model: Path, folder: Path) -> None:
    """Where more than three tokens follow both choices, they are scored, but for the last."""
    everything = load_tasks("winogrande", folder / "winogrande.csv")
    file, model = load_model(language_model)
    chosen, correct = [], 0
    for choice in everything.choices:
        parts = [model.tokenize(text) for text in choice.texts]
        bases = [len(model.tokenize(text)) for text in choice.contexts]
        prefix = common_prefix(parts)
        if min(len(part) - prefix for part in parts) <= 3:
            continue
        if any(part[base - 1 :].size < 3 for part, base in zip(parts, bases, strict=True)):
            continue
        chosen.append(choice)
        scores = [
            log_likelihood(model, text, base, len(part) - 1)
            for text, base, part in zip(choice.texts, bases, parts, strict=True)
        ]
        correct += (0 if scores[0] > scores[1] else 1) in choice.correct
    assert len(chosen) > 4
    tasks = Tasks("winogrande", everything.path, tuple(chosen), len(chosen))
    assert run_tasks(file, model, tasks, RunOptions()).correct == correct


def test_progress_and_too_little_room(language_model: Path, folder: Path) -> None:
    file, model = load_model(language_model)
    tasks = load_tasks("hellaswag", folder / "hellaswag.txt", 3)
    seen = []
    run_tasks(
        file, model, tasks, RunOptions(), lambda result, total: seen.append((result.tasks, total))
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(RunError, match=r"takes \d+ tokens, and there is room for 16"):
        run_tasks(file, model, tasks, RunOptions(context_length=4))


def test_files_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    good = (folder / "multiple-choice.bin").read_bytes()
    cases = [
        ("hellaswag", b"one\ntwo\n", "2 lines, which is not a multiple of six"),
        ("hellaswag", b"context\nfour\na\nb\nc\nd\n", "is not the number of an ending"),
        ("winogrande", b"no,tasks\nat all\n", "does not hold winogrande tasks"),
        (
            "winogrande",
            b"0,without a blank,a,b,1\n0,x _,a,b,3\nlast\n",
            "does not hold winogrande tasks",
        ),
        ("multiple-choice", b"ab", "does not hold multiple-choice tasks"),
        ("multiple-choice", good[:4] + b"\xff" * 200, "is damaged"),
        ("multiple-choice", good[: len(good) // 2], "is damaged"),
        ("riddles", b"x", "There are no tasks"),
    ]
    for kind, content, message in cases:
        path = tmp_path / "tasks"
        path.write_bytes(content)
        with pytest.raises(UsageError, match=message):
            load_tasks(kind, path)
    with pytest.raises(UsageError, match="cannot be read"):
        load_tasks("multiple-choice", tmp_path / "none")
    with pytest.raises(UsageError, match="must be at least 1"):
        load_tasks("hellaswag", folder / "hellaswag.txt", 0)


def test_winogrande_lines_without_a_task_are_counted(language_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    good = "0,First _ won and then went home again.,Ann,Bo,1"
    path.write_text("\n".join([good, "1,no blank,Ann,Bo,1", good, "half,a", "", good, "last", ""]))
    tasks = load_tasks("winogrande", path)
    assert (len(tasks.choices), tasks.available, tasks.unreadable) == (3, 3, 3)
    evaluator = Evaluator([language_model], EvalOptions(tasks=[("winogrande", path, None)]))
    assert evaluator.notes == ["w.csv: 3 of 6 lines do not hold a task and were left out"]
    (settings,) = evaluator.to_dict()["settings"]["tasks"]
    assert (settings["of"], settings["unreadable"]) == (3, 3)


@pytest.mark.parametrize("kind", ["hellaswag", "winogrande", "multiple-choice"])
def test_tasks_that_are_not_utf_8(folder: Path, tmp_path: Path, kind: str) -> None:
    (source,) = folder.glob(f"{kind}.*")
    data, path = source.read_bytes(), tmp_path / "tasks"
    place = re.search(rb"[a-z] [a-z]", data).end() - 1
    path.write_bytes(data[:place] + b"\xf7" + data[place + 1 :])
    with pytest.raises(UsageError, match=rf"is not UTF-8 text: the byte at offset {place} is 0xf7"):
        load_tasks(kind, path)


def test_winogrande_lines_with_commas_and_quotes(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text('0,"First, _ won, again.",Ann,Bo,1\n1,Then _ lost.,Ann,Bo,2\nlost,with it\n')
    first, second = load_tasks("winogrande", path).choices
    assert first.texts == (b"First, Ann won, again.", b"First, Bo won, again.")
    assert first.contexts == (b"First, Ann", b"First, Bo")
    assert (first.correct, second.correct) == ({0}, {1})
