"""Prints the table of a saved run: Mweights/s of both sides and their ratio, as Markdown."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any


def table(results: dict[str, Any]) -> str:
    machine = results["machine_info"]
    lines = [
        f"{machine.get('processor_name', machine['machine'])}, {machine['threads']} processors, "
        f"apex {machine['apex']}, ggml {machine['ggml']}, {results['datetime'][:10]}",
        "",
        "| what | apex, Mweights/s | reference | ratio | reading / quantizing / writing / all, s |",
        "|---|---|---|---|---|",
    ]
    groups: dict[str, dict[str, Any]] = defaultdict(dict)
    for run in results["benchmarks"]:
        groups[run["group"]][run["extra_info"]["who"]] = run
    for name, sides in groups.items():
        speed = {
            who: run["extra_info"]["weights"] / run["stats"]["median"] / 1e6
            for who, run in sides.items()
        }
        ours = speed.pop("apex")
        (reference,) = speed.values()
        seconds = sides["apex"]["extra_info"].get("seconds")
        stages = ("reading", "quantizing", "writing", "total")
        split = " / ".join(f"{seconds[stage]:.2f}" for stage in stages) if seconds else ""
        lines.append(
            f"| {name} | {ours:.1f} | {reference:.1f} | {ours / reference:.2f} | {split} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))) + "\n")
