"""Evaluates what upstream's converter makes of a tensor: whole, or a part of its first dimension.

The converter leaves a graph of operations (``LazyBase`` in its gguf package), whose leaves are byte
ranges of files. Its own evaluation keeps every step of the graph in memory and cannot be repeated;
this one keeps nothing. Where all operations treat the elements of the first dimension, such as the
experts of a stack, each by itself, only those that are wanted are read.

Most BF16 weights become F32 on the way, are moved about, and become BF16 again: they stay as they
are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from apex import _core

__all__ = ["Lazy", "Ranges"]

# Reads a range of a file: (path, offset, size) to a writable array of uint8.
Ranges = Callable[[Path, int, int], npt.NDArray[np.uint8]]
# What a node's operation makes of its arguments: (node, arguments) to an array or tensor.
Apply = Callable[[Any, Any], Any]

# Operations on each element by itself: methods of tensors, and functions by their names.
_ELEMENTWISE = {"to", "float", "half", "bfloat16", "double", "contiguous", "clone"}
_TO_NUMPY = "LazyTorchTensor.numpy.<locals>.<lambda>"
_CONVERSIONS = {_TO_NUMPY, "LazyNumpyTensor.astype.<locals>.<lambda>"}
_QUANTIZATION = "__quantize_array"
# Operations that move weights and leave their values; _WIDENING makes F32 of BF16 beside them.
_MOVING = {"contiguous", "clone", "reshape", "view", "transpose", "permute", "swapaxes"}
_MOVING |= {"__getitem__", "squeeze", "unsqueeze", "flatten"}
_WIDENING = {"to", "float"}


class Lazy:
    """A tensor of the converter's output.

    Attributes:
        shape: its shape as numpy has it; the last dimension of quantized types counts bytes.
        is_divisible: whether a part of the first dimension is evaluated from less than the whole.
    """

    def __init__(self, value: Any, torch: Any, read: Ranges) -> None:
        self._value = value
        self._torch = torch
        self._read = read
        self.shape: tuple[int, ...] = tuple(value.shape)
        self.is_divisible = len(self.shape) > 1 and self._divides(value)
        self._stays = _name_of(getattr(value, "_func", None)) == _QUANTIZATION and (
            value._func.__self__.qtype.name == "BF16" and self._moves(value._args[0])
        )

    def part(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """The bytes of the elements from ``start`` to ``stop`` of the first dimension."""
        with self._torch.inference_mode(), np.errstate(all="ignore"):
            if self._stays:
                part = self._evaluated(start, stop, self._moved)
                if not _has_nan(part):  # of which upstream changes a bit
                    return np.ascontiguousarray(part).view(np.uint8).reshape(-1)
            if hasattr(self._value, "_chunks"):
                whole = np.concatenate([self._chunk(load) for load in self._value._chunks])
                part = whole.reshape(self.shape)[start:stop]
            elif not _is_lazy(self._value):
                part = self._value[start:stop]
            else:
                part = self._evaluated(start, stop, _result)
        return np.ascontiguousarray(part).view(np.uint8).reshape(-1)

    def _evaluated(self, start: int, stop: int, apply: Apply) -> Any:
        if self.is_divisible:
            return self._part(self._value, start, stop, apply)
        return self._whole(self._value, apply)[start:stop]

    def _moves(self, node: Any) -> bool:
        """Whether all below it is BF16 of a file, at most widened and moved."""
        if not _is_lazy(node) or node._data is not None:
            return False
        if _range_of(node) is not None:
            return bool(node._meta.dtype == self._torch.bfloat16)
        if (stacked := _stacked(node)) is not None:
            return all(map(self._moves, stacked))
        name, rest = _name_of(node._func), (*node._args[1:], *node._kwargs.values())
        if not node._args or any(map(_is_lazy, _leaves(rest))):
            return False
        if name in _WIDENING:
            is_allowed = all(each == self._torch.float32 for each in rest)
        elif name == _TO_NUMPY:
            is_allowed = not rest
        else:
            is_allowed = name in _MOVING
        return is_allowed and self._moves(node._args[0])

    def _moved(self, node: Any, arguments: Any) -> Any:
        """What becomes of weights that stay as they are."""
        name = _name_of(node._func)
        if name in _WIDENING:
            return arguments[0]
        if name == _TO_NUMPY:
            return arguments[0].view(self._torch.int16).numpy().view(np.uint16)
        if name == _QUANTIZATION:
            return arguments[0]
        return node._func(*arguments, **node._kwargs)

    def _chunk(self, load: Callable[[], Any]) -> Any:
        """A chunk of a LazyChunkedTensor, as its ``tofile`` makes it."""
        kind = self._value._qtype
        if kind is None:
            return load()
        return type(self._value)([load], load().shape, np.float32).quantize(kind)

    def _divides(self, node: Any) -> bool:
        if not _is_lazy(node):
            return not hasattr(node, "_chunks")
        if node._data is not None or _range_of(node) is not None:
            return True
        if _stacked(node) is not None:
            return True
        source = _source_of(node)
        return source is not None and self._divides(source)

    def _part(self, node: Any, start: int, stop: int, apply: Apply) -> Any:
        """``_whole(node, apply)[start:stop]``, of a node that divides."""
        if node._data is not None:
            return node._data[start:stop]
        if _range_of(node) is not None:
            return self._leaf(node, start, stop)
        stacked = _stacked(node)
        if stacked is not None:
            wanted = [self._whole(each, apply) for each in stacked[start:stop]]
            return self._torch.stack(wanted, dim=0)
        part = self._part(_source_of(node), start, stop, apply)
        return apply(node, (part, *node._args[1:]))

    def _whole(self, root: Any, apply: Apply) -> Any:
        uses = Counter(id(node) for node in _uses(root))
        known: dict[int, Any] = {}

        def value(node: Any) -> Any:
            if node._data is not None:
                return node._data
            if id(node) in known:
                return known[id(node)]
            if _range_of(node) is not None:
                result = self._leaf(node, 0, None)
            else:
                result = apply(node, _mapped(node._args, value))
            if uses[id(node)] > 1:
                known[id(node)] = result
            return result

        return value(root)

    def _leaf(self, node: Any, start: int, stop: int | None) -> Any:
        """A tensor of a safetensors file, or a part of its first dimension."""
        tensor = node._args[0]
        place = tensor.data_range
        shape = tuple(tensor.shape)
        first, size = 0, place.size
        if stop is not None and shape:
            each = place.size // shape[0] if shape[0] else 0
            first, size = start * each, (stop - start) * each
            shape = (stop - start, *shape[1:])
        data = self._read(place.filename, place.offset + first, size)
        return self._torch.from_numpy(data).view(node._meta.dtype).reshape(shape)


def _result(node: Any, arguments: Any) -> Any:
    """What a node's operation makes of its arguments."""
    if _name_of(node._func) == _QUANTIZATION and node._func.__self__.qtype.name == "BF16":
        try:  # the same bytes, many times faster
            return _core.quantize(np.ascontiguousarray(arguments[0], np.float32), "BF16")
        except (_core.BadDataError, ValueError, TypeError):  # NaN, or more dimensions
            pass
    return node._func(*arguments, **node._kwargs)


def _has_nan(codes: npt.NDArray[np.uint16]) -> bool:
    """Of BF16."""
    return bool(((codes & 0x7FFF) > 0x7F80).any())


def _is_lazy(value: Any) -> bool:
    return hasattr(value, "_meta") and hasattr(value, "_func")


def _range_of(node: Any) -> Any:
    """The byte range behind a leaf; None for other nodes."""
    if len(node._args) == 1 and not _is_lazy(node._args[0]):
        return getattr(node._args[0], "data_range", None)
    return None


def _stacked(node: Any) -> Any:
    """What ``torch.stack(…, dim=0)`` stacks; None for other nodes."""
    if getattr(node._func, "__name__", "") != "stack" or len(node._args) > 2:
        return None
    dim = node._args[1] if len(node._args) == 2 else node._kwargs.get("dim", 0)
    tensors = node._args[0]
    is_plain = set(node._kwargs) <= {"dim"} and all(map(_is_lazy, tensors))
    return tensors if dim == 0 and is_plain else None


def _source_of(node: Any) -> Any:
    """The one tensor that a node is made of, where it keeps the first dimension as it is."""
    if not node._args or not _is_lazy(node._args[0]) or len(node._args[0]._meta.shape) < 2:
        return None
    source, rest = node._args[0], node._args[1:]
    if any(map(_is_lazy, _leaves((*rest, *node._kwargs.values())))):
        return None
    name, rank = _name_of(node._func), len(source._meta.shape)
    if name in _ELEMENTWISE or name in _CONVERSIONS or name == _QUANTIZATION:
        return source
    if name == "__getitem__" and _keeps_first(rest[0], rank):
        return source
    if name == "transpose" and len(rest) == 2 and all(dim % rank for dim in rest):
        return source
    return None


def _keeps_first(key: Any, rank: int) -> bool:
    """Whether an index takes all of the first dimension."""
    if not isinstance(key, tuple) or not all(isinstance(k, slice) or k is ... for k in key):
        return False
    if key[0] is ...:
        return len(key) <= rank
    return bool(key[0] == slice(None))


def _name_of(function: Any) -> str:
    """What a node does: the name of a method or function, or where its lambda was written."""
    code = getattr(function, "__code__", None)
    if code is not None and "name" in code.co_freevars and "__getattr__" in function.__qualname__:
        return str(function.__closure__[code.co_freevars.index("name")].cell_contents)
    name = getattr(function, "__name__", "")
    return str(function.__qualname__) if name == "<lambda>" else name


def _mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """A structure of lists and tuples with its nodes replaced, as upstream's ``_recurse_apply``."""
    if isinstance(value, (list, tuple)):
        return type(value)(_mapped(each, function) for each in value)
    return function(value) if _is_lazy(value) else value


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from _leaves(each)
    else:
        yield value


def _uses(root: Any) -> Iterator[Any]:
    """The nodes below ``root``, each as often as it is used."""
    seen, waiting = {id(root)}, [root]
    while waiting:
        for node in filter(_is_lazy, _leaves(waiting.pop()._args)):
            yield node
            if id(node) not in seen:
                seen.add(id(node))
                waiting.append(node)
