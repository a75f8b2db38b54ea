"""Writes tiers.json and plans.json: what whole files and a plan of a large model are.

For developers, not for CI, and only where bytes are meant to change (see CONTRIBUTING.md):

    python tests/golden/make_tiers.py TRAINED_MODEL
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from support import goldens  # noqa: E402
from support.qwen35_35b import write_header  # noqa: E402

from apex.demo import write_demo_model  # noqa: E402


def make_files(model: Path, name: str) -> dict[str, Any]:
    """The inputs' digests and those of every case, in the current folder."""
    goldens.write_matrix(model, Path(goldens.MATRIX))
    return {
        "model": goldens.digest(model),
        "imatrix": goldens.digest(Path(goldens.MATRIX)),
        "files": {
            case: goldens.make(model, options, Path("out.gguf"))
            for case, options in goldens.cases(name).items()
        },
    }


def make_plans() -> str:
    """JSON with a line per tensor: its type and bytes in every tier."""
    write_header(Path("large.gguf"))
    tiers = goldens.tier_names()
    plans = [goldens.plan_of(Path("large.gguf"), tier) for tier in tiers]
    lines = [f'"tiers": {json.dumps(tiers)}']
    lines += [
        f"{json.dumps(name)}: {json.dumps([plan[name] for plan in plans])}" for name in plans[0]
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    trained = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        goldens.PLANS.write_text(make_plans(), encoding="utf-8")
        write_demo_model("demo.gguf")
        models = {"demo": Path("demo.gguf"), "trained": trained}
        found = {name: make_files(model, name) for name, model in models.items()}
    goldens.FILES.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
