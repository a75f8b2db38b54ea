"""How fast the kernels for GPUs are, beside what the hardware allows; whole files by way of them.

    python bench/gpu/measure.py OUT.json [--folder FOLDER] [--gib 6] [--quick]

Every result is compared with the processor's, byte for byte, before it is timed. The JSON names the
machine. Without a GPU it ends with 9; APEX_CUDA=EMULATED runs it for a try, without meaning.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from models import write_matrix, write_model

import apex
from apex import _core

COLUMNS = 2048
TYPES = {
    # Floating-point and integer operations per weight that the search asks for by its definition,
    # plain and weighted: candidates times operations of one (13 to 19 for the K types), for the
    # codebooks mostly the terms of distances (as counted on normal weights), each a shift, a mask,
    # an address, a load and an addition. Together with the clock they give a bound on speed.
    "Q8_0": (12, 12),
    "Q6_K": (238, 238),
    "Q5_K": (330, 730),
    "Q4_K": (425, 730),
    "Q3_K": (120, 245),
    "Q2_K": (330, 730),
    "IQ4_XS": (300, 305),
    "IQ4_NL": (300, 305),
    "IQ3_S": (1500, 1500),
    "IQ3_XXS": (2300, 2300),
    "IQ2_S": (950, 950),
    "IQ2_XS": (None, 4200),
    "IQ2_XXS": (None, 1950),
    "IQ1_M": (640, 640),
    "IQ1_S": (None, 660),
    "Q4_0": (15, 240),
    "Q4_1": (15, 725),
    "Q5_0": (15, 240),
    "Q5_1": (15, 725),
    "MXFP4": (70, 70),
}
AIMS = dict.fromkeys(("Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_XS", "IQ4_NL"), 10.0) | (
    dict.fromkeys(("IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"), 2.0)
)
FACTS = {facts.name: facts for facts in _core.tensor_types()}
FILES = {
    "Q8_0": {"file_type": "Q8_0"},
    "Q4_K_M": {"file_type": "Q4_K_M"},
    "i-quality": {"tier": "i-quality"},
    "mini": {"tier": "mini"},
    "micro": {"tier": "micro"},
}


def machine(device: _core.Device) -> dict[str, Any]:
    """What was measured, without the name of the host."""
    info: dict[str, Any] = {
        "gpu": device.name,
        "architecture": f"{device.major}.{device.minor}",
        "processors": device.processors,
        "clock_hz": device.clock,
        "memory_bytes": device.memory,
        "threads": _core.available_threads(),
        "node": platform.machine(),
        "apex": _core.__version__,
        "ggml": _core.ggml_version,
    }
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        info["processor_name"] = names[0].partition(":")[2].strip() if names else ""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        told = subprocess.run(query, capture_output=True, text=True, check=False).stdout
        info["driver"] = told.strip().partition("\n")[0]
    return info


def lanes(device: _core.Device) -> int:
    """Single-precision lanes of a streaming multiprocessor."""
    return 64 if (device.major, device.minor) in ((7, 0), (7, 2), (7, 5), (8, 0)) else 128


def measure_type(
    device: _core.Device, bandwidth: _core.Bandwidth, type_name: str, weighted: bool, rows: int
) -> dict[str, Any]:
    """Gweights/s of the kernels on F16 weights that lie on the GPU."""
    random = np.random.default_rng(0)
    small = random.standard_normal((64, COLUMNS), dtype=np.float32).astype(np.float16)
    weights = np.tile(small, (rows // 64, 1))
    importance = random.lognormal(size=COLUMNS).astype(np.float32) if weighted else None
    facts = FACTS[type_name]
    row_bytes = COLUMNS // facts.block_weights * facts.block_bytes
    out = np.zeros(rows * row_bytes, np.uint8)
    quantizer = _core.DeviceQuantizer(
        device.index,
        1,
        source_bytes=weights.nbytes,
        target_bytes=out.nbytes,
        importance_values=COLUMNS if weighted else 0,
        rows=rows,
    )
    targets = [(type_name, importance, out)]
    job = (weights.view(np.uint16), "F16", [rows, COLUMNS], targets)
    quantizer.submit(0, *job)
    assert quantizer.wait(0).is_sound
    expected = _core.quantize(small, type_name, importance)
    assert np.array_equal(
        out.reshape(rows // 64, 64, row_bytes), np.tile(expected, (rows // 64, 1, 1))
    )
    seconds = quantizer.time_kernels(0, *job, 5)
    operations = TYPES[type_name][weighted]
    assert operations is not None
    bytes_per_weight = 2 + row_bytes / COLUMNS
    rate = device.processors * lanes(device) * device.clock
    return {
        "type": type_name,
        "kind": "weighted" if weighted else "plain",
        "weights": weights.size,
        "seconds": seconds,
        "gweights_per_s": weights.size / seconds / 1e9,
        "bytes_floor": bandwidth.on_device / bytes_per_weight / 1e9,
        "arithmetic_floor": rate / operations / 1e9,
        "aim": AIMS.get(type_name),
    }


def measure_file(
    model: Path, matrix: Path, folder: Path, bandwidth: _core.Bandwidth, case: str
) -> dict[str, Any]:
    """A whole file from the page cache: the processor's once, the GPU's three times."""
    options: dict[str, Any] = dict(FILES[case])
    if "tier" in options and apex.load_recipe(case).importance == "required":
        options["imatrix"] = matrix
    plan = apex.plan(model, **options)
    ours, theirs = folder / "gpu.gguf", folder / "processor.gguf"
    begin = time.perf_counter()
    apex.quantize(plan, theirs, backend="cpu", overwrite=True)
    processor = time.perf_counter() - begin
    results = [apex.quantize(plan, ours, backend="cuda", overwrite=True) for _ in range(3)]
    assert filecmp.cmp(ours, theirs, shallow=False), case
    best = min(results, key=lambda result: result.timings.total)
    timings = best.timings
    source = plan.model.bytes
    streaming = timings.total - timings.preparing - timings.syncing
    return {
        "file": case,
        "weights": plan.weights,
        "source_bytes": source,
        "bytes": plan.file_bytes,
        "processor_seconds": processor,
        "seconds": timings.to_dict(),
        "source_bytes_per_s": source / timings.total,
        "share_of_copy_bandwidth": source / timings.total / bandwidth.to_device,
        "share_while_streaming": source / streaming / bandwidth.to_device,
        "device_memory": best.devices[0].memory,
        "slab_memory": best.slab_memory,
        "devices": len(best.devices),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--folder", type=Path, help="for the model and the files; in memory if can be"
    )
    parser.add_argument("--gib", type=float, default=6.0, help="size of the model")
    parser.add_argument("--quick", action="store_true", help="small sizes, for a try")
    arguments = parser.parse_args()
    found = apex.gpus()
    if not found:
        print("there is no GPU", file=sys.stderr)
        return 9
    device = found[0]
    rows = 256 if arguments.quick else 32768
    gib = 0.2 if arguments.quick else arguments.gib
    bandwidth = _core.measure_bandwidth(device.index, (8 if arguments.quick else 1024) << 20)
    result: dict[str, Any] = {
        "machine": machine(device),
        "bandwidth": {
            "to_device": bandwidth.to_device,
            "from_device": bandwidth.from_device,
            "on_device": bandwidth.on_device,
        },
        "kernels": [],
        "files": [],
    }
    print(
        f"{device.name}: {bandwidth.to_device / 1e9:.1f} GB/s to it, "
        f"{bandwidth.from_device / 1e9:.1f} from it, {bandwidth.on_device / 1e9:.0f} on it"
    )
    print("Gweights/s       measured   bytes  arithmetic  aim")
    for type_name, operations in TYPES.items():
        for weighted in (False, True):
            if operations[weighted] is None:
                continue
            row = measure_type(device, bandwidth, type_name, weighted, rows)
            result["kernels"].append(row)
            aim = "" if row["aim"] is None else f"{row['aim']:.0f}"
            print(
                f"{type_name:8} {row['kind']:8} {row['gweights_per_s']:7.2f} "
                f"{row['bytes_floor']:7.0f} {row['arithmetic_floor']:11.1f}  {aim}",
                flush=True,
            )
            save(arguments.out, result)
    folder = arguments.folder
    if folder is None:
        memory = Path("/dev/shm")
        roomy = memory.is_dir() and shutil.disk_usage(memory).free > 3 * gib * 2**30
        folder = memory if roomy else Path(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(dir=folder) as name:
        model, matrix = Path(name) / "model.gguf", Path(name) / "imatrix.gguf"
        write_model(model, gib)
        write_matrix(model, matrix)
        result["machine"]["files_in"] = "memory" if str(folder) == "/dev/shm" else "a disk"
        for case in FILES:
            row = measure_file(model, matrix, Path(name), bandwidth, case)
            result["files"].append(row)
            seconds = ", ".join(f"{key} {value:.2f}" for key, value in row["seconds"].items())
            print(
                f"{case}: {row['source_bytes_per_s'] / 1e9:.1f} GB/s of the source, "
                f"{100 * row['share_of_copy_bandwidth']:.0f} % of the copies' bandwidth "
                f"({100 * row['share_while_streaming']:.0f} % while streaming), the processor "
                f"{row['processor_seconds']:.1f} s; {seconds}",
                flush=True,
            )
            save(arguments.out, result)
    return 0


def save(path: Path, result: dict[str, Any]) -> None:
    """After every step: what was measured stays when a later step fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
