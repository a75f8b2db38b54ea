"""The steps that bring a model in Hugging Face form: fetch, convert."""

from __future__ import annotations

from pathlib import Path

from apex.conversion import convert, converted_bytes
from apex.publishing.planned import Planned
from apex.publishing.step import Advance, Outcome, Step, step
from apex.sources import HuggingFaceModel

__all__ = ["source_steps"]


def source_steps(planned: Planned) -> list[Step]:
    """Download the weights of a model of the Hub; make the file that runs, where one must run."""
    source = planned.source
    if not isinstance(source, HuggingFaceModel):
        return []
    steps = [_fetch(planned, source)] if source.is_of_hub else []
    if planned.converted is not None:
        steps.append(_convert(planned, source, planned.converted))
    return steps


def _fetch(planned: Planned, source: HuggingFaceModel) -> Step:
    """They go to the cache of the Hub's own library, which goes on where it was stopped."""

    def run(advance: Advance) -> Outcome:
        source.fetch(lambda done, total, name: advance("downloading", done, total, name))
        return Outcome([], {})

    return step("fetch", {"model": planned.model}, [], run)


def _convert(planned: Planned, source: HuggingFaceModel, written: Path) -> Step:
    def run(advance: Advance) -> Outcome:
        written.parent.mkdir(parents=True, exist_ok=True)
        convert(
            source,
            written,
            overwrite=True,
            progress=lambda done, total, name: advance("converting", done, total, name),
        )
        return Outcome([written], {})

    size = converted_bytes(source)
    return step("convert", {"model": planned.model}, [], run, size, scratch=[written])
