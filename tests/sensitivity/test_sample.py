"""A sample of a model's rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apex.sensitivity.sample import RowSample
from apex.sources import Source, Tensor, open_model


def rows_of(source: Source, tensor: Tensor) -> np.ndarray:
    """uint8 (experts, rows, bytes)."""
    data = np.empty(tensor.bytes, np.uint8)
    source.read(tensor, 0, data.data)
    return data.reshape(tensor.experts, tensor.rows // tensor.experts, -1)


@pytest.mark.parametrize("weights", [1, 20000, 100000])
def test_rows_are_the_sources(demo_model: Path, weights: int) -> None:
    """Evenly from every expert, in their order; norms and small matrices are whole."""
    source = open_model(demo_model)
    sample = RowSample(source, weights)
    whole = {tensor.name: tensor for tensor in source.tensors}
    assert [tensor.name for tensor in sample.tensors] == list(whole)
    for tensor in sample.tensors:
        full = whole[tensor.name]
        assert (tensor.columns, tensor.experts) == (full.columns, full.experts)
        per_expert = full.rows // full.experts
        kept = tensor.rows // tensor.experts
        if len(full.shape) < 2:
            assert tensor.shape == full.shape
            continue
        assert kept == min(per_expert, max(16, weights // (full.columns * full.experts)))
        if not tensor.name.startswith(("blk.0.", "token_embd")):
            continue
        ours, theirs = rows_of(sample, tensor), rows_of(source, full)
        chosen = np.arange(kept) * per_expert // kept
        assert np.array_equal(ours, theirs[:, chosen])


def test_a_read_may_begin_and_end_within_an_expert(demo_model: Path) -> None:
    sample = RowSample(open_model(demo_model), 1)
    tensor = next(t for t in sample.tensors if t.name == "blk.2.ffn_up_exps.weight")
    every = rows_of(sample, tensor).reshape(tensor.rows, -1)
    part = np.empty(21 * tensor.row_bytes, np.uint8)
    sample.read(tensor, 10, part.data)
    assert np.array_equal(part.reshape(21, -1), every[10:31])


def test_it_is_another_source_than_the_whole(demo_model: Path) -> None:
    source = open_model(demo_model)
    small, large = RowSample(source, 1), RowSample(source, 1 << 16)
    digests = {source.reference.digest, small.reference.digest, large.reference.digest}
    assert len(digests) == 3
    assert small.alignment == source.alignment
