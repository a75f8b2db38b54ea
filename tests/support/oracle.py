"""Runs apex and llama.cpp on the same model with the same wishes, and compares whole files."""

from __future__ import annotations

import filecmp
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apex
from apex import _core
from apex.errors import ApexError

apex_reference = pytest.importorskip("apex_reference", reason="only editable installs have it")
# llama.cpp's own quantizer, in this process.
quantize_with_llama = apex_reference.quantize_with_llama


def same_bytes(
    model: Path,
    folder: Path,
    *,
    llama: dict[str, Any] | None = None,
    importance: dict[str, np.ndarray] | None = None,
    imatrix_keys: list[tuple[str, Any]] | None = None,
    **options: Any,
) -> apex.Plan | None:
    """Quantize with both and assert that the files are equal, or that both refuse.

    ``llama`` holds what the reference is called with beyond file type and importance. Of a tier,
    the reference gets the plan's exported types. Returns the plan, None where both refused.
    """
    ours, theirs = folder / "apex.gguf", folder / "llama.gguf"
    given = dict(llama or {})
    try:
        plan = apex.plan(model, **options)
        apex.quantize(plan, ours, overwrite=True)
    except ApexError as error:
        plan, refusal = None, error
    if plan is not None and "tier" in options:
        given["file_type"] = plan.file_type
        lines = plan.tensor_type_file().split()
        given["tensor_types"] = [tuple(line.split("=")) for line in lines]
    given.setdefault("file_type", options.get("file_type", "F16"))
    overrides = [*given.pop("overrides", []), *(imatrix_keys or [])]
    try:
        quantize_with_llama(
            str(model), str(theirs), importance=importance or {}, overrides=overrides, **given
        )
    except apex_reference.ModelError as error:
        assert plan is None, f"llama.cpp refuses: {error}"
        return None
    assert plan is not None, f"apex refuses: {refusal}"
    assert filecmp.cmp(ours, theirs, shallow=False), differences(ours, theirs)
    return plan


def differences(ours: Path, theirs: Path) -> str:
    """What is different between two files, for the message of a failing test."""
    a, b = (_core.Header.read(str(path)) for path in (ours, theirs))
    lines = []
    if a.keys() != b.keys():
        lines.append(f"keys in another order, or {set(a.keys()) ^ set(b.keys())}")
    lines += [
        f"{x.name} {x.type} != {y.name} {y.type}"
        for x, y in zip(a.tensors(), b.tensors(), strict=False)
        if (x.name, x.type, x.offset) != (y.name, y.type, y.offset)
    ]
    return "; ".join(lines[:5]) or "data"
