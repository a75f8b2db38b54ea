"""Second-moment files for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from support.imatrix import write_gguf

from apex.files import MomentsContent, MomentsWriter
from apex.sources import open_model

Entry = tuple[np.ndarray, np.ndarray]  # float32 sums (experts, triangle), counts of rows


def entry_of(inputs: list[np.ndarray]) -> Entry:
    """From the inputs (rows, columns) that each expert saw."""
    columns = inputs[0].shape[1]
    sums = [(rows.T @ rows)[np.tril_indices(columns)] for rows in inputs]
    return np.stack(sums).astype(np.float32), np.array([len(rows) for rows in inputs])


def columns_of(entry: Entry) -> int:
    """How wide the inputs were."""
    return int((np.sqrt(8 * entry[0].shape[1] + 1) - 1) / 2)


def write_moments(
    path: Path,
    entries: Mapping[str, Entry],
    aliases: Mapping[str, str] | None = None,
    of_weights: Sequence[str] = (),
) -> None:
    """A file of these entries; aliases have the inputs of another, and some are of weights."""
    sizes = {name: (columns_of(entry), len(entry[1])) for name, entry in entries.items()}
    content = MomentsContent("sampled:1", ["text"], 3, 512, sizes, aliases or {}, of_weights)
    with MomentsWriter(path, content) as writer:
        for name, (sums, counts) in entries.items():
            writer.write(name, 0, sums)
            writer.finish({name: counts})
        writer.commit()


def write_data(model: Path, folder: Path) -> tuple[Path, Path]:
    """An importance matrix of all that is quantized but the embedding, and second moments of all of
    these but values, from inputs whose columns move together."""
    random, entries, sums = np.random.default_rng(3), {}, {}
    for tensor in open_model(model).tensors:
        if len(tensor.shape) < 2 or tensor.name == "token_embd.weight":
            continue
        mixing = random.standard_normal((tensor.columns, tensor.columns)) / 16
        inputs = [
            random.standard_normal((400 + expert, tensor.columns)) @ mixing
            for expert in range(tensor.experts)
        ]
        squares = np.stack([(rows**2).sum(axis=0) for rows in inputs]).astype(np.float32)
        entries[tensor.name] = squares, np.array([len(rows) for rows in inputs], np.float32)
        if "attn_v" not in tensor.name:
            sums[tensor.name] = entry_of(inputs)
    paths = folder / "matrix.gguf", folder / "moments.gguf"
    write_gguf(paths[0], entries)
    write_moments(paths[1], sums)
    return paths
