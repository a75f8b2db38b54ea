from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from apex import _core


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    """Name the processor and what was built, so that a number can be traced."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        machine_info["processor_name"] = names[0].partition(":")[2].strip() if names else ""
    machine_info["threads"] = _core.available_threads()
    machine_info["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine_info["apex"] = _core.__version__
    machine_info["ggml"] = _core.ggml_version
    machine_info["node"] = platform.machine()  # the host's own name is nobody's business
