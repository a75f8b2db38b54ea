"""Parts of tensors that were evaluated and are not read to their end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

import numpy as np
import numpy.typing as npt

__all__ = ["PartCache"]

# Neighbours in the stream are read side by side.
_MOST_PARTS = 2


class _Part:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.data: npt.NDArray[np.uint8] | None = None
        self.read = 0


class PartCache:
    """Keeps a part until as many bytes of it were asked for as it has; two parts at most."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._parts: dict[Hashable, _Part] = {}

    def part(
        self, key: Hashable, size: int, make: Callable[[], npt.NDArray[np.uint8]]
    ) -> npt.NDArray[np.uint8]:
        """The part ``key``, of which ``size`` bytes will be read; made by one thread only."""
        with self._lock:
            part = self._parts.pop(key, None) or _Part()
            self._parts[key] = part  # the last one asked for is the last to go
            while len(self._parts) > _MOST_PARTS:
                del self._parts[next(iter(self._parts))]
        with part.lock:
            if part.data is None:
                part.data = make()
            data = part.data
            part.read += size
            is_read = part.read >= len(data)
        if is_read:
            with self._lock:
                if self._parts.get(key) is part:
                    del self._parts[key]
        return data
