"""What measurements have to share to be comparable, and the words that tell them apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Setting", "common_words", "speed_setting", "task_setting", "text_setting", "words"]


@dataclass(frozen=True)
class Setting:
    """How something was measured; empty or zero where it does not matter.

    Attributes:
        text: name of the text, or of the base file.
        text_sha256: of the text, where it is known.
        chunks, tasks: how many of the text or of the file of tasks.
        context_length: in tokens.
        cache_type_k, cache_type_v: types of the KV cache.
        reference: name of the model that the others are compared with.
        machine: processor, threads and GPUs.
    """

    text: str = ""
    text_sha256: str = ""
    chunks: int = 0
    tasks: int = 0
    context_length: int = 0
    cache_type_k: str = ""
    cache_type_v: str = ""
    reference: str = ""
    machine: str = ""

    def parts(self) -> dict[str, str]:
        """In words, by what they are about; empty where there is nothing to say."""
        key, value = self.cache_type_k, self.cache_type_v
        return {
            "text": f"text {self.text}" if self.text else "",
            "chunks": _count(self.chunks, "chunk"),
            "tasks": _count(self.tasks, "task"),
            "context": f"context of {_count(self.context_length, 'token')}"
            if self.context_length
            else "",
            "cache": f"KV cache {key}" if key == value else f"KV cache {key} and {value}",
            "reference": f"compared with {self.reference}" if self.reference else "",
            "machine": self.machine,
        }


def _count(number: int, word: str) -> str:
    if not number:
        return ""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def text_setting(data: Mapping[str, Any], chunks: int) -> Setting:
    """Of a perplexity or a divergence over a text. data: what ``apex eval`` wrote."""
    settings = data["settings"]
    references = [str(model["name"]) for model in data["models"] if model["is_reference"]]
    base = str(settings.get("base") or "")
    return Setting(
        text=str(settings.get("text") or base),
        text_sha256=str(settings.get("text_sha256") or ""),
        chunks=chunks,
        context_length=int(settings.get("context_length") or 0),
        reference=references[0] if references else base,
        **_cache(settings),
    )


def task_setting(data: Mapping[str, Any], tasks: int) -> Setting:
    """Of an accuracy."""
    return Setting(tasks=tasks, **_cache(data["settings"]))


def speed_setting(data: Mapping[str, Any]) -> Setting:
    """Of a speed: that of one machine."""
    machine = data.get("machine") or {}
    threads = int(data["settings"].get("threads") or machine.get("threads") or 0)
    parts = [machine.get("processor"), _count(threads, "thread"), *(machine.get("gpus") or ())]
    return Setting(
        machine=", ".join(str(part) for part in parts if part), **_cache(data["settings"])
    )


def _cache(settings: Mapping[str, Any]) -> dict[str, Any]:
    names = ("cache_type_k", "cache_type_v")
    return {name: str(settings.get(name) or "F16").upper() for name in names}


def common_words(settings: Sequence[Setting]) -> str:
    """What all of them share, such as "text wiki.txt, context of 512 tokens"."""
    all_parts = [setting.parts() for setting in settings]
    first = all_parts[0]
    return ", ".join(
        text
        for name, text in first.items()
        if text and all(parts[name] == text for parts in all_parts)
    )


def words(setting: Setting, among: Sequence[Setting]) -> str:
    """What sets one apart from the others; empty where it is the only one."""
    own = setting.parts()
    others = [other for other in among if other != setting]
    differing = [
        text or f"no {name}"
        for name, text in own.items()
        if any(other.parts()[name] != text for other in others)
    ]
    if any(other.parts() == own for other in others):  # two texts of one name
        differing.append(f"SHA-256 {setting.text_sha256[:8]}…")
    return ", ".join(differing)
