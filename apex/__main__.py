"""``python -m apex`` is the ``apex`` command."""

from __future__ import annotations

import sys

from apex.cli import main

if __name__ == "__main__":
    sys.exit(main())
