"""How much memory there is, and whether it is enough."""

from __future__ import annotations

import sys
from pathlib import Path

from apex import _core
from apex.errors import RunError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

__all__ = [
    "available_gpu_memory",
    "available_memory",
    "check_gpu_memory",
    "check_memory",
    "peak_memory",
]


def check_memory(path: Path, need: dict[str, int]) -> None:
    """Raise RunError where caches and buffers need more memory than there is.

    need: what ``_core.memory_need`` says, of a model that is loaded.
    """
    available = available_memory()
    wanted = need["cache"] + need["compute"] + need["logits"]
    if available is not None and wanted > available:
        raise RunError(
            f"Running {path} needs {wanted / 2**30:.1f} GiB beside the model, and "
            f"{available / 2**30:.1f} GiB are free.",
            "use a smaller --ctx-size or --batch-size, or a KV cache of a smaller type",
        )
    if need["device"]:
        check_gpu_memory(f"Running {path}", need["device"])


def check_gpu_memory(what: str, wanted: int) -> None:
    """Raise RunError where ``what`` needs more bytes than are free on all GPUs together."""
    available = available_gpu_memory()
    if wanted > available:
        raise RunError(
            f"{what} needs {wanted / 2**30:.1f} GiB on GPUs, and {available / 2**30:.1f} GiB are "
            "free there.",
            "use fewer --gpu-layers",
        )


def available_gpu_memory() -> int:
    """Bytes that are free on all GPUs together."""
    return sum(free for _, _, free, _ in _core.gpu_devices())


def available_memory() -> int | None:
    """Bytes that may still be allocated, by the system and by the control group; None: unknown."""
    known = []
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                known.append(int(line.split()[1]) * 1024)
    except (OSError, ValueError):
        pass
    try:
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit != "max":
            statistics = (group / "memory.stat").read_text(encoding="ascii").split()
            files = int(statistics[statistics.index("file") + 1])  # given back when needed
            used = int((group / "memory.current").read_text(encoding="ascii"))
            known.append(int(limit) - used + files)
    except (OSError, ValueError):
        pass
    return min(known, default=None)


def peak_memory() -> int:
    """The most bytes that this process has had in memory, mapped pages included; 0: unknown."""
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
