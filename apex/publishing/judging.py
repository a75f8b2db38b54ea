"""The steps that tell how good the files are: evaluate, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from apex.calibration.identity import model_digest
from apex.errors import UsageError
from apex.evaluation import EvalOptions, Evaluator, HarnessOptions, SpeedOptions
from apex.inference import RunOptions
from apex.publishing.making import making_of
from apex.publishing.planned import Planned
from apex.publishing.publication import Publication
from apex.publishing.step import Advance, Outcome, Step, digest_of, step, write_json
from apex.reporting import report
from apex.sources import HubFile, is_hub_file, open_model

__all__ = ["evaluate_steps", "report_step"]


def evaluate_steps(planned: Planned, calibrated: Step | None) -> list[Step]:
    """The model first, whose probabilities are kept; each tier is then compared with them.

    So one model is in memory at a time, and the model itself runs over the text once. None where
    nothing is to be measured.
    """
    asked = planned.asked
    text = asked.evaluate_on
    if not asked.measures:
        return []
    # Its name is the model's: results say what they were compared with by the name of the file.
    base = planned.base
    of_model = _step(
        planned,
        "evaluate the original",
        planned.runnable,
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
            "content of the folder of such tasks": None
            if asked.harness_path is None
            else digest_of(*sorted(asked.harness_path.rglob("*.yaml"))),
            "measuring of speed": "yes" if asked.speed else None,
        },
        write_base=base,
        size=0 if text is None else _base_bytes(planned, text),
    )
    return [
        of_model,
        *(
            _step(
                planned,
                f"evaluate {tier}",
                planned.shards(tier)[0],
                {
                    **making_of(planned, [tier], calibrated),
                    "result of the original": of_model.key,
                },
                base=base,
            )
            for tier in asked.tiers
        ),
        *(_baseline_step(planned, path, of_model, base) for path in asked.baselines),
    ]


def _baseline_step(planned: Planned, path: Path, of_model: Step, base: Path | None) -> Step:
    """Measure somebody else's file in the same way."""
    taken = {planned.runnable.name, *(each.name for each in planned.all_shards)}
    if path.name in taken:
        raise UsageError(f"The baseline {path} has the name of one of ours.", "rename it")
    of_hub = HubFile(path) if is_hub_file(path) else None
    needs = {
        "model of the baseline": model_digest(open_model(path))
        if of_hub is None
        else of_hub.location,
        "result of the original": of_model.key,
    }
    return _step(planned, f"evaluate {path.name}", path, needs, base=base, of_hub=of_hub)


def _step(
    planned: Planned,
    name: str,
    model: Path,
    needs: Mapping[str, str | None],
    *,
    base: Path | None = None,
    write_base: Path | None = None,
    size: int = 0,
    of_hub: HubFile | None = None,
) -> Step:
    written = planned.work / f"results-{model.name.removesuffix('.gguf')}.json"
    scratch = [] if write_base is None else [write_base]

    def run(advance: Advance) -> Outcome:
        options = _options(planned.asked)
        if write_base is not None:
            evaluator = Evaluator([], options, reference=model, write_base=write_base)
        else:
            file = model if of_hub is None else of_hub.fetch(partial(advance, "downloading"))
            evaluator = Evaluator([file], options, base=base)
        evaluator.run(lambda at: advance(f"{name}: {at.stage}", at.done, at.total, at.estimate))
        write_json(written, evaluator.to_dict())
        return Outcome([written, *scratch], {})

    uses = planned.scratch if base is None else [base]
    return step(name, needs, [written], run, size, scratch=scratch, uses=uses)


def _base_bytes(planned: Planned, text: Path) -> int:
    """About what the probabilities of all tokens take, at every second position of a text."""
    length = EvalOptions().run.context_length
    tokens = text.stat().st_size // 3  # more bytes make a token in most texts
    chunks = max(1, tokens // length)
    if planned.asked.evaluate_chunks is not None:
        chunks = min(chunks, planned.asked.evaluate_chunks)
    vocabulary = len(planned.source.metadata.get("tokenizer.ggml.tokens") or ())
    return chunks * (length // 2) * vocabulary * 2


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
