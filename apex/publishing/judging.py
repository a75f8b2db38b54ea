"""The steps that tell how good the files are: evaluate, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from apex.evaluation import EvalOptions, Evaluator, HarnessOptions, SpeedOptions
from apex.inference import RunOptions
from apex.publishing.planned import Planned
from apex.publishing.publication import Publication
from apex.publishing.step import Advance, Outcome, Step, digest_of, step, write_json
from apex.reporting import report

__all__ = ["evaluate_steps", "report_step"]


def evaluate_steps(planned: Planned, quantized: Step) -> list[Step]:
    """The model first, whose probabilities are kept; each tier is then compared with them.

    So one model is in memory at a time, and the model itself runs over the text once. None where
    nothing is to be measured.
    """
    asked = planned.asked
    text = asked.evaluate_on
    if text is None and not asked.tasks and not asked.harness and not asked.speed:
        return []
    # Its name is the model's: results say what they were compared with by the name of the file.
    base = None if text is None else planned.work / planned.name
    of_model = _step(
        planned,
        "evaluate the original",
        asked.model,
        {
            "model": planned.model,
            "name of the text": None if text is None else text.name,
            "content of the text": None if text is None else digest_of(text),
            "number of chunks": None
            if asked.evaluate_chunks is None
            else str(asked.evaluate_chunks),
            "list of tasks": ", ".join(kind for kind, _ in asked.tasks) or None,
            "content of the tasks": digest_of(*(p for _, p in asked.tasks))
            if asked.tasks
            else None,
            "list of tasks of lm-evaluation-harness": _harness_words(asked),
            "measuring of speed": "yes" if asked.speed else None,
        },
        write_base=base,
    )
    needs = {"making of the files": quantized.key, "result of the original": of_model.key}
    return [
        of_model,
        *(
            _step(planned, f"evaluate {tier}", planned.shards(tier)[0], needs, base=base)
            for tier in asked.tiers
        ),
    ]


def _step(
    planned: Planned,
    name: str,
    model: Path,
    needs: Mapping[str, str | None],
    *,
    base: Path | None = None,
    write_base: Path | None = None,
) -> Step:
    written = planned.work / f"results-{model.name.removesuffix('.gguf')}.json"
    outputs = [written, *([write_base] if write_base is not None else [])]

    def run(advance: Advance) -> Outcome:
        options = _options(planned.asked)
        if write_base is not None:
            evaluator = Evaluator([], options, reference=model, write_base=write_base)
        else:
            evaluator = Evaluator([model], options, base=base)
        evaluator.run(lambda at: advance(f"{name}: {at.stage}", at.done, at.total, at.estimate))
        write_json(written, evaluator.to_dict())
        return Outcome(outputs, {})

    return step(name, needs, outputs, run)


def _options(asked: Publication) -> EvalOptions:
    return EvalOptions(
        run=RunOptions(threads=asked.threads),
        text=asked.evaluate_on,
        chunks=asked.evaluate_chunks,
        tasks=[(kind, path, None) for kind, path in asked.tasks],
        harness=HarnessOptions(
            asked.harness, asked.harness_path, asked.harness_limit, chat=asked.harness_chat
        )
        if asked.harness
        else None,
        speed=SpeedOptions() if asked.speed else None,
    )


def _harness_words(asked: Publication) -> str | None:
    """Which of its tasks, and how; None without any."""
    if not asked.harness:
        return None
    how = [f"first {asked.harness_limit}"] if asked.harness_limit else []
    return ", ".join([*asked.harness, *how, *(["chat template"] if asked.harness_chat else [])])


def report_step(planned: Planned, evaluated: Sequence[Step]) -> Step:
    """A page, the same as Markdown and CSV, and plots."""
    folder = planned.folder / "report"

    def run(advance: Advance) -> Outcome:
        return Outcome(report([step.outputs[0] for step in evaluated], folder, overwrite=True), {})

    needs = {step.name: step.key for step in evaluated}
    return step("report", needs, [folder / "index.html"], run)
