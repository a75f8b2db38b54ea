"""Writes demo.sensitivity.json: what apex measure finds of the demo's model, with small settings.

For developers, not for CI, and only where what is measured is meant to change:

    python tests/golden/make_sensitivity.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import goldens

from apex.demo import write_demo_model


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "demo.gguf")
        write_demo_model(model)
        goldens.measure_demo(model, goldens.SENSITIVITY)


if __name__ == "__main__":
    main()
