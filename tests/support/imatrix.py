"""Importance matrices for tests, and what llama-quantize computes from them, written anew."""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from pathlib import Path

import gguf
import numpy as np
from support.architectures import ModelSpec, TensorSpec

import apex

Entry = tuple[np.ndarray, np.ndarray]  # sums (experts, columns), counts (experts,); float32

CHUNKS = 10
DATASET = "calibration.txt"


def random_imatrix(spec: ModelSpec, seed: int = 0) -> dict[str, Entry]:
    """For every matrix; some expert of every other tensor was never reached."""
    random = np.random.default_rng(seed)
    entries = {}
    for index, tensor in enumerate(spec.tensors):
        if len(tensor.shape) < 2:
            continue
        experts = tensor.shape[0] if len(tensor.shape) == 3 else 1
        counts = random.integers(1, 500, experts).astype(np.float32)
        sums = random.lognormal(size=(experts, tensor.shape[-1])).astype(np.float32)
        sums *= counts[:, np.newaxis]
        if experts > 1 and index % 2:
            counts[1], sums[1] = 0, 0
        entries[tensor.name] = (sums, counts)
    return entries


def write_for_model(path: Path, model: Path, without: Collection[str] = ()) -> None:
    """A random importance matrix for all matrices of a model, or all but some."""
    tensors = tuple(
        TensorSpec(tensor.name, tuple(reversed(tensor.shape)), tensor.type)
        for tensor in apex.open_model(model).tensors
        if tensor.name not in without
    )
    write_gguf(path, random_imatrix(ModelSpec("", {}, tensors)))


def write_gguf(path: Path, entries: Mapping[str, Entry]) -> None:
    writer = gguf.GGUFWriter(path, "")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", [DATASET])
    writer.add_uint32("imatrix.chunk_count", CHUNKS)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, (sums, counts) in entries.items():
        writer.add_tensor(f"{name}.in_sum2", sums)
        writer.add_tensor(f"{name}.counts", counts.reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_dat(path: Path, entries: Mapping[str, Entry], calls: int = 7) -> None:
    """The older form: means times the number of calls, without counts per expert."""
    data = struct.pack("<i", len(entries))
    for name, (sums, _) in entries.items():
        data += struct.pack("<i", len(name)) + name.encode()
        data += struct.pack("<ii", calls, sums.size) + sums.astype("<f4").tobytes()
    data += struct.pack("<ii", CHUNKS, len(DATASET)) + DATASET.encode()
    path.write_bytes(data)


def as_llama(entries: Mapping[str, Entry]) -> dict[str, np.ndarray]:
    """From the GGUF form: sum over count, per expert; 1 where the count is 0."""
    result = {}
    for name, (sums, counts) in entries.items():
        values = np.empty_like(sums)
        for expert, count in enumerate(counts):
            values[expert] = sums[expert] / np.float32(count) if count > 0 else np.float32(1)
        result[name] = values.reshape(-1)
    return result


def as_llama_from_dat(entries: Mapping[str, Entry], calls: int = 7) -> dict[str, np.ndarray]:
    return {name: (sums / np.float32(calls)).reshape(-1) for name, (sums, _) in entries.items()}


def keys(path: Path, entries: Mapping[str, Entry]) -> list[tuple[str, str | int]]:
    """What llama-quantize adds to the metadata."""
    return [
        ("quantize.imatrix.file", str(path)[:127]),
        ("quantize.imatrix.dataset", DATASET),
        ("quantize.imatrix.entries_count", len(entries)),
        ("quantize.imatrix.chunks_count", CHUNKS),
    ]
