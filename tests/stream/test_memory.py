"""Memory stays under the bound on a model that is several times larger than it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.llama import grow, llama_tensors, write_llama

import apex

# The peak of the whole process, its start included. Where the kernel does not count anonymous
# memory alone, the peak of everything is taken; files are read, not mapped, so it is hardly more.
RUN = """
import pathlib, sys, threading, time, apex
peak, done = 0, False
def watch():
    global peak
    while not done:
        status = open("/proc/self/status").read()
        peak = max(peak, int(status.split("RssAnon:")[1].split()[0]))
        time.sleep(0.002)
thread = threading.Thread(target=watch)
thread.start()
source = apex.open_model(sys.argv[1])
settings = apex.RunSettings(2, int(sys.argv[2]), backend="cpu")  # CUDA's own memory is not counted
plans = {name: apex.plan(source, file_type=name) for name in sys.argv[4:]}
outputs = {pathlib.Path(sys.argv[3], f"{name}.gguf"): plan for name, plan in plans.items()}
apex.quantize_all(outputs, settings, source=source)
done = True
thread.join()
print(peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("types", [["Q8_0"], ["Q8_0", "Q4_0", "F16"]], ids=["one", "several"])
def test_the_peak_is_under_the_bound(tmp_path: Path, types: list[str]) -> None:
    model = tmp_path / "model.gguf"
    tensors = llama_tensors(layers=1)
    write_llama(model, tensors, layers=1)
    grown = grow(model, tmp_path / "grown.gguf", rows=1_600_000)
    bound = 256 << 20
    assert grown.stat().st_size > 3 * bound
    command = [sys.executable, "-c", RUN, str(grown), str(bound), str(tmp_path), *types]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) * 1024 < bound
    for name in types:
        assert apex.open_model(tmp_path / f"{name}.gguf").weights == apex.open_model(grown).weights
