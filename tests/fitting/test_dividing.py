"""Budgets of a GPU beside one of everything, against trying all choices."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest
from support.llama import llama_tensors, write_llama
from support.sensitivities import sensitivity_of

import apex
from apex import Constraints, Wish
from apex.allocation import BudgetError, Choice, Item
from apex.errors import PlanError, UsageError
from apex.fitting.memory import gpu_room, placed
from apex.fitting.solving import divided
from apex.inference import RunOptions
from apex.policy import Role
from apex.sensitivity import Sensitivity
from apex.sources import open_model

MIB = 1 << 20
RESERVE = 512 * MIB


def random_items(chance: random.Random, count: int) -> list[Item]:
    items = []
    for number in range(count):
        size, cost = chance.randint(1, 9), chance.lognormvariate(0, 1)
        choices = tuple(
            Choice(str(bits), size * bits, cost * 4.0**-bits * chance.uniform(0.8, 1.25))
            for bits in range(2, 7)
        )
        items.append(Item(f"{'gpu' if number % 2 else 'cpu'}{number}", choices))
    return items


def is_on_gpu(item: Item) -> bool:
    return item.name.startswith("gpu")


def least(items: list[Item], gpu_budget: int, budget: float) -> float:
    best = math.inf
    for chosen in itertools.product(*(item.choices for item in items)):
        inside = sum(c.bytes for i, c in zip(items, chosen, strict=True) if is_on_gpu(i))
        if inside <= gpu_budget and sum(c.bytes for c in chosen) <= budget:
            best = min(best, sum(c.loss for c in chosen))
    return best


@pytest.mark.parametrize("seed", range(60))
def test_two_budgets(seed: int) -> None:
    chance = random.Random(seed)
    items = random_items(chance, 6)
    smallest = {True: 0, False: 0}
    for item in items:
        smallest[is_on_gpu(item)] += item.choices[0].bytes
    gpu_budget = int(smallest[True] * chance.uniform(1, 3))
    budget = int(sum(smallest.values()) * chance.uniform(1, 3))
    best = least(items, gpu_budget, budget)
    found = divided(items, is_on_gpu, gpu_budget, budget)
    inside = sum(choice.bytes for name, choice in found.choices.items() if name[:3] == "gpu")
    assert inside <= gpu_budget
    assert sum(choice.bytes for choice in found.choices.values()) == found.bytes <= budget
    assert found.loss == pytest.approx(math.fsum(c.loss for c in found.choices.values()))
    assert found.bound <= best * (1 + 1e-12)
    assert best * (1 - 1e-12) <= found.loss <= 1.3 * best


@pytest.mark.parametrize("seed", range(20))
def test_a_gpu_alone(seed: int) -> None:
    """What is on the GPU is the best that fits; the rest gets bytes that save as much."""
    chance = random.Random(seed)
    items = random_items(chance, 6)
    inside = [item for item in items if is_on_gpu(item)]
    smallest = sum(item.choices[0].bytes for item in inside)
    gpu_budget = int(smallest * chance.uniform(1, 2.5))
    found = divided(items, is_on_gpu, gpu_budget, None)
    loss = sum(found.choices[item.name].loss for item in inside)
    assert loss == pytest.approx(least(inside, gpu_budget, math.inf))
    for item in items:
        if item in inside:
            continue
        now = found.choices[item.name]
        gains = [
            (now.loss - other.loss) / (other.bytes - now.bytes)
            for other in item.choices
            if other.bytes > now.bytes
        ]
        assert all(gain <= found.price * (1 + 1e-9) for gain in gains)
    with pytest.raises(BudgetError):
        divided(items, is_on_gpu, smallest - 1, None)


def test_everything_or_nothing_on_the_gpu() -> None:
    items = random_items(random.Random(1), 6)
    largest = sum(max(choice.bytes for choice in item.choices) for item in items)
    assert divided(items, lambda _: True, largest, None).bytes == largest
    assert divided(items, lambda _: False, 0, None).bytes == largest
    assert divided(items, lambda _: False, 0, largest - 1).bytes < largest


# Models


@pytest.fixture(scope="module")
def sensitivity(demo_model: Path) -> Sensitivity:
    return sensitivity_of(demo_model)


def test_what_lies_on_a_gpu(demo_model: Path) -> None:
    """Layers count from the output, which is the first; the embedding is read in host memory."""
    model = open_model(demo_model)
    run = RunOptions(context_length=512)

    def on_gpu(layers: int, *, moe: bool = False) -> set[str]:
        room = gpu_room(model, 1 << 30, run, layers=layers, experts_on_cpu=moe)
        return {tensor.name for tensor in model.tensors if room.is_on_gpu(tensor.name)}

    names = {tensor.name for tensor in model.tensors}
    assert on_gpu(-1) == on_gpu(99) == names - {"token_embd.weight"}
    assert on_gpu(0) == set()
    assert on_gpu(1) == {"output.weight", "output_norm.weight"}
    assert on_gpu(3) - on_gpu(1) == {n for n in names if n.startswith(("blk.7.", "blk.8."))}
    assert on_gpu(-1) - on_gpu(-1, moe=True) == {name for name in names if "_exps." in name}


def test_an_embedding_that_is_the_output_too(tmp_path: Path) -> None:
    """libllama copies it to the GPU."""
    tensors = llama_tensors()
    del tensors["output.weight"]
    write_llama(tmp_path / "tied.gguf", tensors)
    model = open_model(tmp_path / "tied.gguf")
    for layers, expected in ((-1, True), (1, True), (0, False)):
        assert placed(model, layers, experts_on_cpu=False)("token_embd.weight") is expected


def test_what_caches_take(demo_model: Path) -> None:
    model = open_model(demo_model)

    def cache(length: int, kind: str = "F16", layers: int = -1) -> int:
        run = RunOptions(context_length=length, cache_type_k=kind, cache_type_v=kind)
        room = gpu_room(model, 1 << 30, run, layers=layers)
        assert room.weights == (1 << 30) - RESERVE - room.cache - room.compute
        return room.cache

    assert cache(512) < cache(2048) < cache(4096)
    assert cache(4096, "Q8_0") < cache(4096)
    assert cache(4096, layers=3) == pytest.approx(cache(4096) * 2 / 9, abs=1)
    assert cache(4096, layers=1) == 0


@pytest.mark.parametrize("moe", [False, True])
def test_a_model_for_a_gpu(demo_model: Path, sensitivity: Sensitivity, moe: bool) -> None:
    run = RunOptions(context_length=1024)
    room = gpu_room(open_model(demo_model), 1 << 30, run)
    taken = room.cache + room.compute + RESERVE
    weights = 4 * MIB if moe else 20 * MIB
    wish = Wish(vram=taken + weights, run=run, experts_on_cpu=moe)
    found = apex.fit(demo_model, sensitivity, wish)
    assert found.room is not None and found.room.weights == weights
    used = sum(t.bytes for t in found.plan.tensors if found.room.is_on_gpu(t.name))
    assert 0.995 * weights <= used == found.gpu_bytes(found.plan) <= weights
    assert found.budget is None
    both = apex.fit(
        demo_model,
        sensitivity,
        Wish(vram=taken + weights, run=run, size=16 * MIB, experts_on_cpu=moe),
    )
    assert both.plan.file_bytes <= 16 * MIB and both.gpu_bytes(both.plan) <= weights
    # What is better elsewhere and would not fit into the GPU is no rival.
    large = apex.fit(demo_model, sensitivity, Wish(size=found.plan.file_bytes))
    assert large.predicted is not None and found.predicted is not None
    assert large.predicted <= found.predicted * 1.001


def test_what_does_not_fit(demo_model: Path, sensitivity: Sensitivity) -> None:
    run = RunOptions(context_length=1024)
    with pytest.raises(UsageError, match="A context of 1024 tokens takes"):
        apex.fit(demo_model, sensitivity, Wish(vram=RESERVE, run=run))
    room = gpu_room(open_model(demo_model), 1 << 30, run)
    taken = room.cache + room.compute + RESERVE
    with pytest.raises(PlanError, match="The smallest weights for the GPU have"):
        apex.fit(demo_model, sensitivity, Wish(vram=taken + 5 * MIB, run=run))
    with pytest.raises(PlanError, match="The smallest file that can be made"):
        apex.fit(demo_model, sensitivity, Wish(vram=taken + 30 * MIB, run=run, size=5 * MIB))


def test_a_floor_on_the_gpu(demo_model: Path, sensitivity: Sensitivity) -> None:
    run = RunOptions(context_length=1024)
    room = gpu_room(open_model(demo_model), 1 << 30, run)
    wish = Wish(vram=room.cache + room.compute + RESERVE + 20 * MIB, run=run)
    found = apex.fit(demo_model, sensitivity, wish, Constraints(floors={Role.SHARED: "Q8_0"}))
    shared = [t for t in found.plan.tensors if t.role is Role.SHARED and "inp" not in t.name]
    assert shared and {tensor.type for tensor in shared} == {"Q8_0"}
    assert found.gpu_bytes(found.plan) <= 20 * MIB
