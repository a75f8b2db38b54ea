"""Tasks of lm-evaluation-harness: its requests, against texts that are run alone."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support import language

from apex import _core
from apex.calibration import built_in_text
from apex.errors import RunError, UsageError
from apex.evaluation import EvalOptions, Evaluator, HarnessOptions
from apex.evaluation.task_files import load_tasks
from apex.evaluation.tasks import run_tasks
from apex.inference import RunOptions, load_model
from apex.reporting import report

TEXT = built_in_text("prose")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, language_model: Path) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(UsageError, match="need more Python packages") as caught:
        Evaluator([language_model], EvalOptions(harness=HarnessOptions(["gsm8k"])))
    assert "apex-quant[harness]" in caught.value.hint


harness_installed = pytest.mark.skipif(
    find_spec("lm_eval") is None,
    reason="lm-evaluation-harness is not installed: pip install 'apex-quant[harness]'",
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for tasks; what the harness keeps goes elsewhere, and it has no network."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "tasks").mkdir()
    return tmp_path / "tasks"


def model_of(path: Path, max_length: int | None = None, batch_size: int = 2048) -> Any:
    from apex.evaluation.harness.model import HarnessModel

    return HarnessModel(
        *load_model(path), RunOptions(batch_size=batch_size), max_length, lambda *_: None
    )


def requests(*arguments: tuple[Any, ...]) -> list[Any]:
    return [SimpleNamespace(args=each) for each in arguments]


def log_likelihood(model: _core.Model, tokens: np.ndarray, start: int) -> float:
    """ln p of the tokens from start on, in double."""
    logits = language.next_logits(model, tokens)[start - 1 : -1].astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return float(logits[np.arange(len(logits)), tokens[start:]].sum())


@harness_installed
@pytest.mark.parametrize("batch_size", [2048, 40])
def test_log_likelihoods(language_model: Path, batch_size: int) -> None:
    """Of continuations that share a context or do not."""
    _, model = load_model(language_model)
    pairs = [
        *((TEXT[:70], TEXT[at : at + 20]) for at in (100, 203, 304, 409, 511)),
        (TEXT[600:700], " a"),
        (TEXT[600:700], " b"),
        (TEXT[600:700] + " ", "c"),
    ]
    answers = model_of(language_model, batch_size=batch_size).loglikelihood(requests(*pairs))
    expected = []
    for context, continuation in pairs:
        context, continuation = context.rstrip(), context[len(context.rstrip()) :] + continuation
        before, whole = (model.tokenize(t.encode()) for t in (context, context + continuation))
        tokens = np.concatenate([before, whole[len(before) :]])
        expected.append(log_likelihood(model, tokens, len(before)))
    np.testing.assert_allclose([answer for answer, _ in answers], expected, rtol=2e-4)


@harness_installed
def test_whether_a_continuation_is_the_likeliest(language_model: Path) -> None:
    """Its every token: of one text and the same with another last token."""
    _, model = load_model(language_model)
    tokens = model.tokenize(TEXT[:50].encode())
    likeliest: list[int] = []
    for _ in range(3):
        everything = np.append(tokens, np.array(likeliest, np.int32))
        likeliest.append(int(language.next_logits(model, everything)[-1].argmax()))
    context = [int(token) for token in tokens]
    other = [*likeliest[:2], likeliest[2] + 1]
    continuations = [likeliest, other, likeliest[:1], []]
    answers = model_of(language_model)._loglikelihood_tokens(
        [("", context, continuation) for continuation in continuations]
    )
    assert [is_likeliest for _, is_likeliest in answers] == [True, False, True, True]
    for (answer, _), new in zip(answers, continuations, strict=True):
        everything = np.append(tokens, np.array(new, np.int32))
        expected = log_likelihood(model, everything, len(tokens))
        assert answer == pytest.approx(expected, rel=2e-4)


@harness_installed
def test_a_context_of_nothing_and_one_that_is_too_long(language_model: Path) -> None:
    _, model = load_model(language_model)
    harness = model_of(language_model, 24)
    (alone,) = harness.loglikelihood(requests(("", "The end.")))
    expected = log_likelihood(model, model.tokenize(b"The end."), 1)
    assert alone[0] == pytest.approx(expected, rel=2e-4)
    tokens = model.tokenize(TEXT[:200].encode())
    context, continuation = [int(token) for token in tokens[:-4]], [int(t) for t in tokens[-4:]]
    ((cut, _),) = harness._loglikelihood_tokens([("", context, continuation)])
    assert cut == pytest.approx(log_likelihood(model, tokens[-25:], 21), rel=2e-4)
    assert harness.truncated == 1
    with pytest.raises(RunError, match="asks for 25 tokens in one piece"):
        harness._loglikelihood_tokens([("", context, context[:25])])


@harness_installed
@pytest.mark.parametrize("length", [16, 2048])
def test_all_of_a_text(language_model: Path, length: int) -> None:
    """Every token once, after those of its window; in a single window, after all before it."""
    _, model = load_model(language_model)
    texts = [TEXT[:150], TEXT[200:240]]
    rolled = model_of(language_model, length).loglikelihood_rolling(
        requests(*((text,) for text in texts))
    )
    for text, answer in zip(texts, rolled, strict=True):
        tokens = model.tokenize(text.encode())  # with the token that begins a text
        total, seen = 0.0, 1
        while seen < len(tokens):
            end = min(seen + length, len(tokens))
            begin = seen - 1 if seen == 1 else max(0, end - length - 1)
            total += log_likelihood(model, tokens[begin:end], seen - begin)
            seen = end
        assert answer == pytest.approx(total, rel=2e-4)


@harness_installed
def test_generation(language_model: Path) -> None:
    """The likeliest tokens after the context, or after the part of it that the model can see."""
    _, model = load_model(language_model)
    harness = model_of(language_model, 40)
    wishes = {"until": ["never there"], "max_gen_toks": 5, "do_sample": False}
    answers = harness.generate_until(
        requests((TEXT[:60], wishes), (TEXT[:400], wishes), (TEXT[:60], {**wishes, "until": ""}))
    )
    for text, answer in zip((TEXT[:60], TEXT[:400]), answers, strict=False):
        tokens = model.tokenize(text.encode())[-35:]
        for _ in range(5):
            likeliest = language.next_logits(model, tokens)[-1].argmax()
            tokens = np.append(tokens, np.int32(likeliest))
        new = b"".join(model.piece(int(token)) for token in tokens[-5:])
        assert answer == new.decode(errors="replace")
    assert answers[2] == answers[0]
    assert harness.truncated == 1
    with pytest.raises(RunError, match="lets the model write 40 tokens"):
        harness.generate_until(requests((TEXT[:60], {"max_gen_toks": 40})))
    drawn = requests(*[(TEXT[:60], {**wishes, "do_sample": True, "temperature": 3.0})] * 2)
    assert len(set(harness.generate_until(drawn))) == 2


@harness_installed
def test_chat(tmp_path: Path, language_model: Path) -> None:
    path = tmp_path / "chat.gguf"
    language.write_language_model(path, TEMPLATE)
    harness = model_of(path)
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": " So"}]
    assert harness.apply_chat_template(messages[:1]) == "<s><user>Hello</user>\n<assistant>"
    text = harness.apply_chat_template(messages, add_generation_prompt=False)
    assert text == "<s><user>Hello</user>\n<assistant> So"
    assert harness.tok_encode(text) == harness.tok_encode(text.removeprefix("<s>"))
    assert harness.tok_encode(text).count(1) == 1
    with pytest.raises(UsageError, match="has no chat template"):
        model_of(language_model).apply_chat_template(messages)
    language.write_language_model(path, "{{ raise_exception('only one message') }}")
    with pytest.raises(UsageError, match="cannot be used: only one message"):
        model_of(path).apply_chat_template(messages)


def write_task(folder: Path, name: str, documents: list[dict[str, Any]], **config: Any) -> Path:
    (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in documents))
    path = folder / f"{name}.yaml"
    data_files = {"test": str(folder / f"{name}.jsonl")}
    task = {
        "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": data_files},
        "test_split": "test", "doc_to_text": "{{question}}", **config,
    }  # fmt: skip
    path.write_text(json.dumps(task))  # which is YAML too
    return path


def documents_of(path: Path) -> list[dict[str, Any]]:
    """The questions of a file of multiple-choice tasks."""
    documents = []
    for choice in load_tasks("multiple-choice", path).choices:
        texts = [text.decode() for text in choice.texts]
        words = [text.split(" ") for text in texts]
        same = next(i for i, those in enumerate(zip(*words, strict=False)) if len(set(those)) > 1)
        documents.append(
            {
                "question": " ".join(words[0][:same]),
                "choices": [" ".join(part[same:]) for part in words],
                "answer": min(choice.correct),
            }
        )
    return documents


CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@harness_installed
def test_choices_are_those_of_our_own_tasks(language_model: Path, data: Path) -> None:
    """The same log-likelihoods decide, there as a mean over tokens, here as a sum."""
    language.write_multiple_choice(data / "choices.bin", 12)
    tasks = load_tasks("multiple-choice", data / "choices.bin")
    file, model = load_model(language_model)
    harness = model_of(language_model)
    by_mean = by_sum = 0
    documents = documents_of(data / "choices.bin")
    for document in documents:
        pairs = [(document["question"], f" {choice}") for choice in document["choices"]]
        sums = np.array([answer for answer, _ in harness.loglikelihood(requests(*pairs))])
        counts = [len(harness._encode_pair(*pair)[1]) for pair in pairs]
        by_mean += int(np.argmax(sums / counts)) == document["answer"]
        by_sum += int(np.argmax(sums)) == document["answer"]
    assert run_tasks(file, model, tasks, RunOptions()).correct == by_mean
    write_task(data, "apex_choices", documents, **CHOICES)
    options = HarnessOptions(["apex_choices"], data)
    evaluator = Evaluator([language_model], EvalOptions(harness=options, file_hash=False))
    evaluator.run()
    (score,) = evaluator.models[0].harness
    assert (score.task, score.metric, score.samples) == ("apex_choices", "acc", 12)
    assert score.value == pytest.approx(by_sum / 12)
    assert score.error == pytest.approx(
        np.std([1] * by_sum + [0] * (12 - by_sum), ddof=1) / 12**0.5
    )


@harness_installed
def test_groups_limits_and_shots_in_report(language_model: Path, data: Path) -> None:
    documents = [
        {"question": f"Is {i} even?", "choices": ["yes", "no"], "answer": i % 2} for i in range(9)
    ]
    for name in ("apex_one", "apex_two"):
        write_task(data, name, documents, fewshot_split="test", **CHOICES)
    (data / "group.yaml").write_text(
        "group: apex_both\ntask: [apex_one, apex_two]\naggregate_metric_list: [{metric: acc}]\n"
    )
    write_task(
        data, "apex_written", documents, output_type="generate_until", doc_to_target="yes",
        generation_kwargs={"until": [" "], "max_gen_toks": 3},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )  # fmt: skip
    options = HarnessOptions(["apex_both", "apex_written"], data, limit=4, shots=1)
    evaluator = Evaluator([language_model], EvalOptions(harness=options))
    evaluator.run()
    scores = {score.task: score for score in evaluator.models[0].harness}
    assert scores["apex_one"].part_of == scores["apex_two"].part_of == "apex_both"
    assert scores["apex_both"].samples == 8
    assert {score.shots for score in scores.values()} == {1}
    (data / "results.json").write_text(json.dumps(evaluator.to_dict()))
    report([data / "results.json"], data / "report")
    text = (data / "report" / "report.md").read_text()
    assert "Tasks of lm-evaluation-harness" in text
    assert r"apex\_both, 1 shot" in text
    assert r"apex\_one" not in text
    assert "exact\\_match" in text


@harness_installed
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("task.yaml", "task: [", "task.yaml is not valid YAML, line 1"),
        ("task.yaml", "- a list", "task.yaml is not a task of lm-evaluation-harness"),
        ("task.txt", "task: a", "does not hold tasks"),
        ("task.yaml", "task: a\nnonsense: 1\n", "cannot load the task a: .*nonsense"),
        (
            "task.yaml",
            "task: a\ndataset_path: json\ndataset_kwargs: {data_files: {test: /none.jsonl}}\n",
            "The data of the task a is not here and cannot be fetched: .*none.jsonl",
        ),
        (
            "task.yaml",
            "task: a\ndataset_path: nobody/nothing\noutput_type: generate_until\n",
            "The data of the task a is not here and cannot be fetched: .*nobody/nothing",
        ),
        (
            "task.yaml",
            "task: a\ndoc_to_text: !function utils.of\n",
            "The task a needs the Python package absent_package",
        ),
    ],
)
def test_tasks_that_cannot_be_loaded(
    language_model: Path, data: Path, name: str, content: str, message: str
) -> None:
    (data / name).write_text(content)
    (data / "utils.py").write_text("import absent_package")
    with pytest.raises(UsageError, match=message):
        Evaluator([language_model], EvalOptions(harness=HarnessOptions(["a"], data)))


@harness_installed
def test_tasks_that_run_code_are_asked_for(language_model: Path, data: Path) -> None:
    documents = [{"question": "What is one?", "choices": ["1", "2"], "answer": 0}]
    write_task(data, "apex_code", documents, unsafe_code=True, **CHOICES)
    with pytest.raises(UsageError, match="The task apex_code runs what the model writes"):
        Evaluator([language_model], EvalOptions(harness=HarnessOptions(["apex_code"], data)))
    options = HarnessOptions(["apex_code"], data, run_code=True)
    evaluator = Evaluator([language_model], EvalOptions(harness=options, file_hash=False))
    evaluator.run()
    assert evaluator.models[0].harness[0].samples == 1


@harness_installed
@pytest.mark.slow  # reads all tasks that come with the harness
def test_a_task_that_nobody_knows(language_model: Path) -> None:
    with pytest.raises(UsageError, match="does not have a task 'gsm8l'") as caught:
        Evaluator([language_model], EvalOptions(harness=HarnessOptions(["gsm8l"])))
    assert "gsm8k" in caught.value.hint
