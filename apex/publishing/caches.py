"""The steps that tell what a smaller KV cache costs: one file with caches of several types."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from apex import _core
from apex.evaluation import EvalOptions, Evaluator, SpeedOptions
from apex.inference import RunOptions, running
from apex.publishing.facts import Cache
from apex.publishing.planned import Planned
from apex.publishing.step import Advance, Outcome, Step, step, write_json

__all__ = ["cache_steps", "caches_of"]

# Of keys and of values; llama.cpp rotates what it stores in fewer bits.
_TYPES = (("F16", "F16"), ("Q8_0", "Q8_0"), ("Q8_0", "Q4_0"), ("Q4_0", "Q4_0"))
_CONTEXTS = (8192, 32768, 131072)
_SPEED = SpeedOptions(prompt_tokens=8192, generated_tokens=128, repetitions=2)


def cache_steps(planned: Planned, evaluated: Sequence[Step]) -> list[Step]:
    """One for each pair of types; none where the file was not compared with the original."""
    asked = planned.asked
    if not asked.caches or asked.evaluate_on is None:
        return []
    model = planned.shards(asked.tiers[0])[0]
    needs: dict[str, str | None] = {each.name: each.key for each in evaluated[:2]}
    return [_step(planned, model, keys, values, needs) for keys, values in _TYPES]


def _step(
    planned: Planned, model: Path, keys: str, values: str, needs: dict[str, str | None]
) -> Step:
    asked, name = planned.asked, f"caches {keys} {values}"
    written = planned.work / f"cache-{keys}-{values}.json"

    def run(advance: Advance) -> Outcome:
        evaluator = Evaluator(
            [model],
            EvalOptions(
                run=RunOptions(threads=asked.threads, cache_type_k=keys, cache_type_v=values),
                text=asked.evaluate_on,
                chunks=asked.evaluate_chunks,
                speed=_SPEED if asked.speed else None,
                file_hash=False,
            ),
            base=planned.base,
        )
        evaluator.run(lambda at: advance(f"{name}: {at.stage}", at.done, at.total, at.estimate))
        write_json(written, evaluator.to_dict())
        return Outcome([written], {})

    uses = [] if planned.base is None else [planned.base]
    return step(name, needs, [written], run, uses=uses)


def caches_of(planned: Planned, steps: Sequence[Step]) -> list[Cache]:
    """What was measured, for the card."""
    model = planned.shards(planned.asked.tiers[0])[0]
    found = []
    for each in steps:
        data = json.loads(each.outputs[0].read_text("utf-8"))
        keys, values = data["settings"]["cache_type_k"], data["settings"]["cache_type_v"]
        (result,) = data["models"]
        kl = result["divergence"]["kl"]
        speed = {
            kind: number["value"]
            for kind, number in (result["speed"] or {}).items()
            if kind.startswith(("pp", "tg"))
        }
        found.append(
            Cache(
                keys,
                values,
                {length: _bytes(model, length, keys, values) for length in _CONTEXTS},
                kl["value"],
                kl["error"],
                speed,
            )
        )
    return found


def _bytes(model: Path, context_length: int, keys: str, values: str) -> int:
    with running(model):
        need = _core.memory_need(
            os.fsencode(model),
            context_length=context_length,
            cache_type_k=keys,
            cache_type_v=values,
        )
    return need["cache"]
