"""Second-moment files for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from apex.files import MomentsContent, MomentsWriter

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
    path: Path, entries: Mapping[str, Entry], aliases: Mapping[str, str] | None = None
) -> None:
    """A file of these entries; aliases have the inputs of another."""
    sizes = {name: (columns_of(entry), len(entry[1])) for name, entry in entries.items()}
    content = MomentsContent("sampled:1", ["text"], 3, 512, sizes, aliases or {})
    with MomentsWriter(path, content) as writer:
        for name, (sums, counts) in entries.items():
            writer.write(name, 0, sums)
            writer.finish({name: counts})
        writer.commit()
