"""Whole files whose digests are kept in tests/golden/tiers.json, and plans kept in plans.json.

tests/golden/make_tiers.py writes them, tests/oracle/test_goldens.py makes the files again. What was
measured of the demo's model is kept too: make_sensitivity.py writes demo.sensitivity.json.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from support.imatrix import Entry, write_gguf

import apex
from apex.inference import RunOptions
from apex.sensitivity.measuring import measure
from apex.sensitivity.options import MeasureOptions

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = GOLDEN / "tiers.json"
PLANS = GOLDEN / "plans.json"
SENSITIVITY = GOLDEN / "demo.sensitivity.json"

# The widths of edge and near zone with which a model of few layers has a middle, None for the
# recipe's own.
WIDTHS: dict[str, tuple[int | None, ...]] = {"demo": (1, None), "trained": (2, None)}

MATRIX = "imatrix.gguf"  # the files hold this name, so it is given without a folder


def measure_demo(model: Path, output: Path) -> None:
    """Measure the demo's model over a little of the built-in texts."""
    options = MeasureOptions(
        RunOptions(context_length=128, batch_size=256),
        chunks=2,
        levels=("Q3_K", "Q2_K"),
        sample=1 << 14,
    )
    measure(model, output, options=options, overwrite=True)


def tier_names() -> list[str]:
    return [recipe.name for recipe in apex.tiers()]


def cases(model: str) -> dict[str, dict[str, Any]]:
    """Name of the case to the options of ``apex.quantize``; "imatrix" is True where one is used."""
    result: dict[str, dict[str, Any]] = {}
    for width in WIDTHS[model]:
        for recipe in apex.tiers():
            options: dict[str, Any] = {"tier": recipe.name}
            if recipe.importance == "required":
                options["imatrix"] = True
            if width is not None:
                options |= {"edge_layers": width, "near_layers": width}
            widths = "the recipe's widths" if width is None else f"widths {width}"
            result[f"{recipe.name}, {widths}"] = options
    for file_type in ("Q4_K_M", "Q8_0", "IQ4_XS", "IQ2_M"):
        options = {"file_type": file_type}
        if file_type == "IQ2_M":
            options["imatrix"] = True
        result[file_type] = options
        result[f"{file_type} in shards"] = options | {"split_max_size": 10_000_000}
    result["rules"] = {
        "file_type": "Q4_K_M",
        "tensor_types": [r"blk\.[01]\.ffn_(up|gate)_exps=q5_k", "attn_q=iq4_nl", "ssm_out=q6_k"],
        "output_tensor_type": "Q8_0",
    }
    result["overrides"] = {
        "file_type": "Q8_0",
        "overrides": {"general.name": "another name", "some.flag": True, "some.half": 0.5},
    }
    return result


def write_matrix(model: Path, path: Path) -> None:
    """Importance for every matrix, by arithmetic that is the same everywhere.

    Means from 1/4096 to 16; no token reached the second expert of every other tensor.
    """
    entries: dict[str, Entry] = {}
    for index, tensor in enumerate(apex.open_model(model).tensors):
        if len(tensor.shape) < 2:
            continue
        size = tensor.experts * tensor.columns
        steps = np.arange(size, dtype=np.int64) * 2654435761 + zlib.crc32(tensor.name.encode())
        means = ((steps >> 8) % 65536 + 1).astype(np.float32) / np.float32(4096)
        counts = (np.arange(tensor.experts) % 7 + 1).astype(np.float32)
        if tensor.experts > 1 and index % 2:
            counts[1] = 0
        sums = means.reshape(tensor.experts, tensor.columns) * counts[:, np.newaxis]
        entries[tensor.name] = (sums, counts)
    write_gguf(path, entries)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def make(model: Path, options: dict[str, Any], output: Path) -> list[str]:
    """Quantize; the digests of the files. Where MATRIX is needed it is in the current folder."""
    if options.get("imatrix"):
        options = options | {"imatrix": MATRIX}
    paths = apex.quantize(model, output, overwrite=True, **options).paths
    digests = [digest(path) for path in paths]
    for path in paths:
        path.unlink()
    return digests


def plan_of(header: Path, tier: str) -> dict[str, str]:
    """Tensor to its type and bytes, as in "Q6_K 6881280"; the importance is left out."""
    plan = apex.plan(header, tier=tier, sizes_only=True)
    return {tensor.name: f"{tensor.type} {tensor.bytes}" for tensor in plan.tensors}


def load(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
