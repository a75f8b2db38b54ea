"""Every type on a GPU: the bytes of the processor, on inputs that break kernels."""

from __future__ import annotations

import numpy as np
import pytest
from support import gpu, kernels

from apex import _core

pytestmark = pytest.mark.gpu

CASES = [
    (type_name, weighted)
    for type_name in kernels.TYPES
    for weighted in (False, True)
    if weighted or not kernels.FACTS[type_name].needs_importance
]


def test_every_type_with_a_kernel_for_processors_has_one_for_gpus(device: int) -> None:
    for type_name, weighted in CASES:
        for source in ("F32", "F16", "BF16", *kernels.TYPES):
            assert _core.can_quantize_on_device(source, type_name, weighted)
    assert not _core.can_quantize_on_device("F32", "F16", False)
    assert not _core.can_quantize_on_device("I32", "Q8_0", False)


@pytest.mark.parametrize(("type_name", "weighted"), CASES)
def test_bytes_are_those_of_the_processor(device: int, type_name: str, weighted: bool) -> None:
    names = [name for name in kernels.IMPORTANCES if (name != "none") == weighted]
    found = [
        f"{name}, importance {weight_name}: {difference}"
        for seed, name in enumerate(kernels.INPUTS)
        for weight_name in names
        if (
            difference := gpu.difference(
                kernels.weights(name, 3, 512, seed),
                type_name,
                kernels.importance(weight_name, 512, seed),
                device=device,
            )
        )
    ]
    assert not found


@pytest.mark.parametrize(("type_name", "weighted"), CASES)
def test_one_thread_block(device: int, type_name: str, weighted: bool) -> None:
    """Little enough for a checker of every access."""
    x = kernels.weights("heavy tailed", 2, 512, 0)
    weight = kernels.importance("lognormal", 512, 0) if weighted else None
    assert gpu.difference(x, type_name, weight, device=device) is None


@pytest.mark.parametrize(("type_name", "weighted"), CASES)
def test_many_thread_blocks_and_rows_of_any_length(
    device: int, type_name: str, weighted: bool
) -> None:
    step = kernels.FACTS[type_name].block_weights
    for seed, (rows, columns) in enumerate(((1, step), (5, 7 * step), (211, 9 * step))):
        x = np.concatenate(
            [kernels.weights(name, rows, columns, seed) for name in ("normal", "all sizes")]
        )
        weight = kernels.importance("lognormal", columns, seed) if weighted else None
        assert gpu.difference(x, type_name, weight, device=device) is None


@pytest.mark.parametrize("type_name", kernels.TYPES)
def test_every_expert_has_its_own_importance(device: int, type_name: str) -> None:
    x = kernels.weights("heavy tailed", 15, 512, 1).reshape(5, 3, 512)
    weight = np.concatenate([kernels.importance("lognormal", 512, seed) for seed in range(5)])
    weight = weight.reshape(5, 512)
    assert gpu.difference(x, type_name, weight, device=device) is None
    if type_name not in ("Q8_0", "MXFP4"):  # which importance does not change
        moved, _ = gpu.quantize(x, type_name, np.roll(weight, 1, axis=0), device=device)
        assert not np.array_equal(moved, _core.quantize(x, type_name, weight))


@pytest.mark.parametrize("source", ["F16", "BF16"])
@pytest.mark.parametrize("type_name", ["Q4_K", "IQ2_S", "IQ1_S", "Q4_0", "IQ4_NL"])
def test_half_precision_sources(device: int, source: str, type_name: str) -> None:
    weight = kernels.importance("lognormal", 1024, 3)
    x = np.concatenate([kernels.weights(name, 6, 1024, 3) for name in ("normal", "mixed zeros")])
    if source == "F16":
        half = x.astype(np.float16).view(np.uint16)
    else:
        half = (x.view(np.uint32) >> 16).astype(np.uint16)
    found, is_sound = gpu.quantize(half, type_name, weight, device=device, source=source)
    expected = _core.quantize(
        half.view(np.uint8), type_name, weight, src_type=source, shape=x.shape
    )
    assert is_sound
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("source", kernels.TYPES)
def test_quantized_sources(device: int, source: str) -> None:
    weight = kernels.importance("lognormal", 512, 3)
    given = _core.quantize(kernels.weights("normal", 7, 512, 3), source, weight)
    found, is_sound = gpu.quantize(given, "Q6_K", weight, device=device, source=source)
    assert is_sound
    assert np.array_equal(found, _core.quantize(given, "Q6_K", weight, src_type=source))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("source", ["F32", "F16", "BF16"])
def test_a_gpu_does_not_vouch_for_weights_that_are_no_numbers(
    device: int, source: str, value: float
) -> None:
    x = kernels.weights("normal", 4, 512, 0)
    for place in (0, 1000, 2047):
        bad = x.copy()
        bad.reshape(-1)[place] = value
        data = {
            "F32": bad,
            "F16": bad.astype(np.float16).view(np.uint16),
            "BF16": (bad.view(np.uint32) >> 16).astype(np.uint16),
        }[source]
        _, is_sound = gpu.quantize(data, "Q8_0", None, device=device, source=source)
        assert not is_sound


def test_a_job_beyond_the_limits_is_refused(device: int) -> None:
    quantizer = _core.DeviceQuantizer(device, 1, source_bytes=4096, target_bytes=4096, rows=2)
    x, out = np.zeros((2, 512), np.float32), np.zeros(2 * 288, np.uint8)
    quantizer.submit(0, x, "F32", [2, 512], [("Q4_K", None, out)])
    assert quantizer.wait(0).is_sound
    for rows, type_name, weight in ((4, "Q4_K", None), (2, "Q4_K", np.ones(512, np.float32))):
        x, out = np.zeros((rows, 512), np.float32), np.zeros(rows * 288, np.uint8)
        with pytest.raises(ValueError, match="larger than the limits"):
            quantizer.submit(0, x, "F32", [rows, 512], [(type_name, weight, out)])
    with pytest.raises(ValueError, match="no kernel"):
        quantizer.submit(0, x[:1], "F32", [1, 512], [("F16", None, np.zeros(1024, np.uint8))])
    with pytest.raises(ValueError, match="no target"):
        quantizer.submit(0, x[:1], "F32", [1, 512], [])


def test_targets_beyond_the_limits_are_refused(device: int) -> None:
    """More of them than announced, or more of their bytes or importance."""
    x, weight = np.zeros((2, 512), np.float32), np.ones(512, np.float32)

    def submit(importances: list[np.ndarray | None], **limits: int) -> None:
        quantizer = _core.DeviceQuantizer(device, 1, source_bytes=4096, rows=2, **limits)
        targets = [("Q4_K", one, np.zeros(2 * 288, np.uint8)) for one in importances]
        quantizer.submit(0, x, "F32", [2, 512], targets)
        assert quantizer.wait(0).is_sound

    enough = {"target_bytes": 3 * 576, "importance_values": 2 * 512, "targets": 3}
    submit([weight, None, weight], **enough)
    for name in enough:
        with pytest.raises(ValueError, match="larger than the limits"):
            submit([weight, None, weight], **{**enough, name: enough[name] - 1})


SEVERAL = ["Q8_0", "Q6_K", "Q5_1", "IQ4_XS", "Q3_K", "IQ3_S", "IQ2_S", "IQ1_M", "Q4_0", "MXFP4"]


@pytest.mark.parametrize("source", ["F32", "F16", "Q8_0"])
def test_several_targets_in_one_slot(device: int, source: str) -> None:
    """The bytes of one target after the other; importance is each target's own."""
    x = kernels.weights("heavy tailed", 15, 768, 5)
    given = {"F32": x, "F16": x.astype(np.float16).view(np.uint16)}
    given["Q8_0"] = _core.quantize(x, "Q8_0")
    rows = given[source].reshape(5, 3, -1)
    targets: list[tuple[str, np.ndarray | None]] = [(name, None) for name in SEVERAL]
    for seed, name in enumerate((*SEVERAL, "IQ2_XXS", "IQ1_S", "Q6_K", "Q4_0")):
        weight = kernels.importance("lognormal", 5 * 768, seed)
        assert weight is not None
        targets.insert(2 * seed % len(targets), (name, weight.reshape(5, 768)))
    found, is_sound = gpu.quantize_all(rows, targets, device=device, source=source)
    assert is_sound
    for (name, weight), bytes_found in zip(targets, found, strict=True):
        alone, _ = gpu.quantize(rows, name, weight, device=device, source=source)
        assert np.array_equal(bytes_found, alone), name
        expected = _core.quantize(
            rows.view(np.uint8), name, weight, src_type=source, shape=(5, 3, 768)
        )
        assert np.array_equal(bytes_found, expected), name


def test_targets_of_any_number_of_bytes(device: int) -> None:
    """Blocks of 17, 18, 34 and 50 bytes, in odd numbers, one after the other."""
    x = kernels.weights("normal", 3, 256, 6)
    weight = kernels.importance("lognormal", 256, 6)
    targets = [("MXFP4", None), ("Q4_0", weight), ("Q8_0", None), ("IQ1_S", weight), ("Q6_K", None)]
    found, is_sound = gpu.quantize_all(x, 2 * targets, device=device)
    assert is_sound
    for (name, of_target), bytes_found in zip(2 * targets, found, strict=True):
        assert np.array_equal(bytes_found, _core.quantize(x, name, of_target)), name


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_target_that_is_not_sound_makes_the_job_unsound(device: int, place: int) -> None:
    x = kernels.weights("beyond binary16", 2, 512, 0)
    x *= np.float32(1e30 / np.abs(x).max())
    with pytest.raises(ValueError, match="too large"):
        _core.quantize(x, "Q8_0")
    targets: list[tuple[str, np.ndarray | None]] = [("MXFP4", None), ("MXFP4", None)]
    _, is_sound = gpu.quantize_all(x, targets, device=device)
    assert is_sound
    targets.insert(place, ("Q8_0", None))
    _, is_sound = gpu.quantize_all(x, targets, device=device)
    assert not is_sound


@pytest.mark.parametrize("type_name", kernels.TYPES)
def test_dequantizing(device: int, type_name: str) -> None:
    """Blocks of weights, and bytes as they come."""
    random = np.random.default_rng(8)
    weight = kernels.importance("lognormal", 1024, 3)
    quantized = _core.quantize(kernels.weights("heavy tailed", 9, 1024, 3), type_name, weight)
    noise = random.integers(0, 256, quantized.shape, dtype=np.uint8)
    for blocks in (quantized, noise):
        found = _core.dequantize_on_device(blocks, type_name, device)
        expected = _core.dequantize(blocks, type_name)
        same = found.view(np.uint32) == expected.view(np.uint32)
        assert (same | (np.isnan(found) & np.isnan(expected))).all()
