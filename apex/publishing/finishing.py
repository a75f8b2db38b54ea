"""The steps that finish the folder: checksums, and the card with what goes beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from apex import _core
from apex.inference import running
from apex.policy import load_recipe
from apex.publishing.caches import caches_of
from apex.publishing.facts import Facts, PublishedFile, facts_of
from apex.publishing.planned import Planned
from apex.publishing.step import Advance, Outcome, Step, step
from apex.publishing.texts import read_checksums, write_checksums, write_texts
from apex.reporting.loading import load_results

__all__ = ["card_step", "checksums_step"]

_SUMS = "SHA256SUMS"
_CONTEXTS = (8192, 32768)
# Of the report's plots, those that the card shows, and what they are of.
_PLOTS = {
    "kl-size.png": "Size against KL divergence from the original",
    "kl-bars.png": "KL divergence from the original",
}


def checksums_step(planned: Planned, quantized: Step) -> Step:
    """SHA-256 of every file."""
    written = planned.folder / _SUMS

    def run(advance: Advance) -> Outcome:
        write_checksums(
            written,
            planned.all_shards,
            lambda done, total: advance("checksums", done, total, ""),
        )
        return Outcome([written], {})

    return step("checksums", {"making of the files": quantized.key}, [written], run)


def card_step(planned: Planned, before: Sequence[Step]) -> Step:
    """The card, LocalAI's gallery and Ollama's Modelfile. before: all other steps."""
    outputs = [planned.folder / name for name in ("README.md", "gallery.yaml", "Modelfile")]

    def run(advance: Advance) -> Outcome:
        return Outcome(write_texts(planned.folder, _facts(planned, before)), {})

    needs: dict[str, str | None] = {step.name: step.key for step in before}
    needs["content of the card"] = repr(planned.asked.card)
    return step("card", needs, outputs, run)


def _facts(planned: Planned, before: Sequence[Step]) -> Facts:
    sums = read_checksums(planned.folder / _SUMS)
    results = [step.outputs[0] for step in before if step.stage == "evaluate"]
    asked = planned.asked.card
    return facts_of(
        replace(asked, base_model=asked.base_model or planned.hub_name),
        planned.source.metadata,
        planned.name,
        files=[_file(planned, tier, sums) for tier in planned.asked.tiers],
        projector=None
        if planned.projector is None
        else (planned.projector.file.name, sums[planned.projector.file.name]),
        results=load_results(results) if results else None,
        caches=caches_of(planned, [each for each in before if each.stage == "caches"]),
        calibration=_calibration(planned),
        versions={"apex": _core.__version__, "llama.cpp": _core.llama_version},
        plots=[
            (f"report/{name}", what)
            for name, what in _PLOTS.items()
            if (planned.folder / "report" / name).exists()
        ],
    )


def _file(planned: Planned, tier: str, sums: dict[str, str]) -> PublishedFile:
    paths = planned.shards(tier)
    return PublishedFile(
        tier,
        load_recipe(tier).description,
        paths,
        tuple(sums[path.name] for path in paths),
        sum(path.stat().st_size for path in paths),
        {length: _memory(paths[0], length) for length in _CONTEXTS},
    )


def _memory(path: Path, context_length: int) -> int:
    with running(path):
        need = _core.memory_need(
            os.fsencode(path),
            context_length=context_length,
            batch_size=2048,
            micro_batch_size=512,
        )
    return need["model"] + need["cache"] + need["compute"]


def _calibration(planned: Planned) -> str:
    if planned.matrix is None:
        return ""
    texts = [path.name for path in planned.asked.texts]
    if planned.asked.built_in:
        texts.append("the built-in texts of apex (prose, code, chat, tools, several languages)")
    limit = planned.asked.chunks
    return " and ".join(texts) + (f", {limit} chunks of 512 tokens at most" if limit else "")
