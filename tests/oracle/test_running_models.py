"""The demo's model, and one that was really trained: every tier is llama.cpp's bytes and runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import imatrix
from support.language import next_logits
from support.oracle import same_bytes

import apex
from apex import _core
from apex.demo import compare

pytestmark = pytest.mark.xdist_group("ggml")

TEXT = (
    "The library reads the file and returns an error if the header is not valid. "
    "In the morning the children walked along the river to the old school."
)
TIERS = [recipe.name for recipe in apex.tiers()]

# Upper bounds of the mean KL divergence in nats, each about five times what was seen.
CLOSE = {
    "quality": 0.005,
    "balanced": 0.005,
    "compact": 0.03,
    "mini": 0.1,
    "nano": 0.12,
    "micro": 0.13,
}


def matrix(model: Path) -> dict[str, imatrix.Entry]:
    """An importance row per matrix and expert, lognormal."""
    random = np.random.default_rng(3)
    entries: dict[str, imatrix.Entry] = {}
    for tensor in apex.open_model(model).tensors:
        if len(tensor.shape) >= 2 and tensor.name.startswith("blk."):
            experts = tensor.shape[2] if len(tensor.shape) == 3 else 1
            rows = random.lognormal(0, 0.5, (experts, tensor.shape[0])).astype(np.float32)
            entries[tensor.name] = (rows, np.ones(experts, np.float32))
    return entries


def same_tier(model: Path, folder: Path, tier: str, width: int) -> Path:
    """The file, which llama.cpp writes too."""
    wishes: dict[str, Any] = {"tier": tier, "edge_layers": width, "near_layers": width}
    if apex.load_recipe(tier).importance == "required":
        path, entries = folder / "imatrix.gguf", matrix(model)
        imatrix.write_gguf(path, entries)
        wishes |= {
            "imatrix": path,
            "importance": imatrix.as_llama(entries),
            "imatrix_keys": imatrix.keys(path, entries),
        }
    assert same_bytes(model, folder, **wishes) is not None
    return folder / "apex.gguf"


@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS)
def test_tier_of_the_demo(demo_model: Path, tmp_path: Path, tier: str) -> None:
    written = same_tier(demo_model, tmp_path, tier, width=1)
    assert np.isfinite(compare(demo_model, written, TEXT).mean_kl)


@pytest.mark.slow
@pytest.mark.parametrize("tier", TIERS)
def test_tier_of_a_trained_model(shared_model: Path, tmp_path: Path, tier: str) -> None:
    written = same_tier(shared_model, tmp_path, tier, width=2)
    agreement = compare(shared_model, written, TEXT)
    assert agreement.tokens > 20
    assert 0 < agreement.mean_kl < CLOSE[tier.removeprefix("i-")]


def test_it_expects_what_a_reader_would(shared_model: Path, tmp_path: Path) -> None:
    """After an opening, the words that follow most often are among the likeliest."""
    path = tmp_path / "out.gguf"
    apex.quantize(shared_model, path, tier="balanced", edge_layers=2, near_layers=2)
    for file in (shared_model, path):
        model = _core.Model(str(file))
        logits = next_logits(model, model.tokenize(b"In the beginning of the year, one of"))
        best = [model.piece(int(token)) for token in np.argsort(-logits[-1])[:10]]
        assert b" the" in best
