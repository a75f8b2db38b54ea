"""Quantize Mixture-of-Experts GGUF models, with the bytes of llama.cpp."""

from __future__ import annotations

from pkgutil import extend_path

# Python run in a checkout finds this folder before the installed package, which has the extension.
__path__ = extend_path(__path__, __name__)
