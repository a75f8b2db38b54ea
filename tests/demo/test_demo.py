"""The demo's model: what it promises to be, and that libllama runs it before and after."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from support.language import next_logits

import apex
from apex import _core
from apex.demo import compare, write_demo_model
from apex.policy import Layout, Role, role_of

TEXT = "The quick brown fox, 12 grüne Äpfel and a bridge.\n"


@pytest.fixture(scope="module")
def demo(demo_model: Path) -> Path:
    return demo_model


def test_the_same_seed_gives_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    write_demo_model(tmp_path / "new" / "again.gguf")
    assert (tmp_path / "new" / "again.gguf").read_bytes() == demo.read_bytes()
    write_demo_model(tmp_path / "other.gguf", seed=1)
    assert (tmp_path / "other.gguf").read_bytes() != demo.read_bytes()


def test_every_role_is_there(demo: Path) -> None:
    model = apex.open_model(demo)
    layout = Layout.from_metadata(model.metadata)
    assert (layout.trunk_layers, layout.mtp_layers, layout.expert_count) == (8, 1, 16)
    roles = {role_of(tensor.name, layout) for tensor in model.tensors}
    assert roles == set(Role) - {Role.DENSE}
    attention = [
        tensor.layer
        for tensor in apex.plan(demo, tier="quality").tensors
        if "attn_q.w" in tensor.name
    ]
    assert attention == [3, 7, 8]  # every fourth, and the MTP head


def test_the_weights_have_the_tails_of_real_ones(demo: Path) -> None:
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(demo).tensors}

    def kurtosis(word: str) -> float:
        parts = [data.astype(np.float64).ravel() for name, data in tensors.items() if word in name]
        parts = [part / part.std() for part in parts]
        return float(np.mean(np.concatenate(parts) ** 4))

    assert kurtosis("exps") == pytest.approx(3.4, abs=0.1)
    assert kurtosis("down_shexp") == pytest.approx(13.1, abs=1.0)


def test_libllama_runs_it_and_its_quantized_file(demo: Path, tmp_path: Path) -> None:
    model = _core.Model(str(demo))
    tokens = model.tokenize(TEXT.encode())
    assert b"".join(model.piece(token) for token in tokens.tolist()) == TEXT.encode()
    assert len(tokens) < len(TEXT)  # some merges apply
    assert np.isfinite(next_logits(model, tokens)).all()
    apex.quantize(demo, tmp_path / "out.gguf", tier="quality", edge_layers=1, near_layers=1)
    agreement = compare(demo, tmp_path / "out.gguf", TEXT)
    assert agreement.same_top > 0.9
    assert 0 < agreement.mean_kl < 0.05
    assert compare(demo, demo, TEXT).mean_kl == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("tokens", [[], [-1], [10**6], [0] * 1000])
def test_tokens_that_make_no_sense(demo: Path, tokens: list[int]) -> None:
    with pytest.raises(ValueError, match="token"):
        next_logits(_core.Model(str(demo)), np.array(tokens, np.int32))


def test_a_file_that_is_no_model(dense_model: Path, tmp_path: Path) -> None:
    for path in (dense_model, tmp_path / "none.gguf"):
        with pytest.raises(_core.ModelError, match="cannot load the model"):
            _core.Model(str(path))
