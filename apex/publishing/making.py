"""The steps that make the files: calibrate, quantize, verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from apex.calibration import CollectOptions, calibrate, read_texts
from apex.errors import DataError
from apex.files import load_imatrix
from apex.inference import RunOptions
from apex.publishing.planned import Planned
from apex.publishing.step import Advance, Outcome, Step, digest_of, step, write_json
from apex.quantizing import DEFAULT_MAX_MEMORY, RunSettings, is_done, quantize, quantize_all
from apex.sources import require_file
from apex.verification import verify

__all__ = ["calibrate_step", "making_of", "quantize_step", "verify_step"]


def calibrate_step(planned: Planned, matrix: Path) -> Step:
    """Collect the importance matrix; a run that was stopped goes on from its checkpoint."""
    asked = planned.asked
    # What is published says nothing of this machine's folders.
    texts = [replace(text, name=Path(text.name).name) for text in read_texts(asked.texts)]

    def run(advance: Advance) -> Outcome:
        result = calibrate(
            require_file(planned.original()),
            matrix,
            texts,
            built_in=asked.built_in,
            options=CollectOptions(run=RunOptions(threads=asked.threads), chunks=asked.chunks),
            overwrite=True,
            progress=lambda at: advance("calibrating", at.chunks_done, at.chunks, ""),
        )
        words = ", ".join(f"{count} of {name}" for name, count in result.text_chunks.items())
        return Outcome([matrix], {"chunks": words, "tokens": str(result.tokens)})

    needs = {
        "model": planned.model,
        "list of texts": ", ".join(str(path) for path in asked.texts) or None,
        "content of the texts": digest_of(*asked.texts) if texts else None,
        "use of the built-in texts": "yes" if asked.built_in else "no",
        "number of chunks": None if asked.chunks is None else str(asked.chunks),
    }
    return step("calibrate", needs, [matrix], run, uses=planned.scratch)


def quantize_step(planned: Planned, calibrated: Step | None) -> Step:
    """Make all tiers in one pass; those that are whole already stay."""
    asked = planned.asked

    def run(advance: Advance) -> Outcome:
        source = planned.original()
        matrix = None if planned.matrix is None else load_imatrix(planned.matrix)
        plans = planned.with_matrix(matrix, source)
        due = {
            planned.files[tier]: made
            for tier, made in plans.items()
            if not is_done(made, planned.files[tier])
        }
        memory = asked.max_memory or DEFAULT_MAX_MEMORY
        quantize_all(
            due,
            RunSettings(asked.threads, memory, overwrite=True),
            source=source,
            progress=lambda at: advance("quantizing", at.done_bytes, at.total_bytes, at.tensor),
        )
        if planned.projector is not None:
            quantize(
                planned.projector.plan,
                planned.projector.file,
                source=planned.projector.source,
                overwrite=True,
            )
        return Outcome(planned.all_shards, {"files written": str(len(due))})

    needs = {
        "list of tiers": ", ".join(asked.tiers),
        **making_of(planned, asked.tiers, calibrated),
        "projector": None if planned.projector is None else planned.projector.digest,
    }
    return step("quantize", needs, planned.all_shards, run, planned.bytes)


def making_of(
    planned: Planned, tiers: Sequence[str], calibrated: Step | None
) -> dict[str, str | None]:
    """What the files of tiers depend on, so that one more tier leaves the others as they are."""
    asked = planned.asked
    recipes = [Path(tier) for tier in tiers if tier.endswith(".toml")]
    is_weighted = any(planned.plans[tier].imatrix is not None for tier in tiers)
    return {
        "model": planned.model,
        "importance matrix": calibrated.key if calibrated is not None and is_weighted else None,
        "content of the recipes": digest_of(*recipes) if recipes else None,
        "size of shards": None if asked.split_max_size is None else str(asked.split_max_size),
    }


def verify_step(planned: Planned, tier: str, calibrated: Step | None) -> Step:
    """Compare a tier with the model, tensor by tensor."""
    first = planned.shards(tier)[0]
    written = planned.work / f"verify-{planned.files[tier].name.removesuffix('.gguf')}.json"

    def run(advance: Advance) -> Outcome:
        found = verify(
            first,
            planned.original(),
            imatrix=planned.matrix if planned.plans[tier].imatrix is not None else None,
            threads=planned.asked.threads,
            progress=lambda done, total: advance(f"comparing {tier}", done, total, ""),
        )
        if found.bad_values:
            raise DataError(
                f"{first} holds {found.bad_values} weights that are NaN or infinite.",
                "remove it, and run the same command again",
            )
        write_json(written, found.to_dict())
        return Outcome([written], {})

    return step(f"verify {tier}", making_of(planned, [tier], calibrated), [written], run)
