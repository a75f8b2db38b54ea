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
import sys, threading, time, apex
peak, done = 0, False
def watch():
    global peak
    while not done:
        status = open("/proc/self/status").read()
        peak = max(peak, int(status.split("RssAnon:")[1].split()[0]))
        time.sleep(0.002)
thread = threading.Thread(target=watch)
thread.start()
limit = int(sys.argv[3])  # CUDA's own memory is not counted
apex.quantize(*sys.argv[1:3], file_type="Q8_0", max_memory=limit, threads=2, backend="cpu")
done = True
thread.join()
print(peak)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_peak_is_under_the_bound(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    tensors = llama_tensors(layers=1)
    write_llama(model, tensors, layers=1)
    grown = grow(model, tmp_path / "grown.gguf", rows=1_600_000)
    bound = 256 << 20
    assert grown.stat().st_size > 3 * bound
    command = [sys.executable, "-c", RUN, str(grown), str(tmp_path / "out.gguf"), str(bound)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) * 1024 < bound
    assert apex.open_model(tmp_path / "out.gguf").weights == apex.open_model(grown).weights
