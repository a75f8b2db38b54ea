"""What the card, the gallery and the Modelfile say of the model and its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex.publishing.publication import CardFacts
from apex.reporting.results import Results

__all__ = ["Cache", "Facts", "PublishedFile", "facts_of"]

_HUB = "https://huggingface.co/"


@dataclass(frozen=True)
class PublishedFile:
    """One file of the set, or the shards that make it.

    Attributes:
        tier: its name; description: a sentence on it.
        paths: its files; sha256: of each, in hexadecimal.
        bytes: of all of them.
        memory: by context length in tokens, the bytes that running it takes: weights, caches and
            buffers, as libllama says.
    """

    tier: str
    description: str
    paths: tuple[Path, ...]
    sha256: tuple[str, ...]
    bytes: int
    memory: Mapping[int, int]

    @property
    def name(self) -> str:
        """Of the file, or of its first shard."""
        return self.paths[0].name


@dataclass(frozen=True)
class Cache:
    """What a KV cache of some types costs.

    Attributes:
        keys, values: their types.
        bytes: by context length in tokens, what the cache takes.
        kl, error: mean KL divergence from the original, and its standard error, in nats.
        speed: tokens a second by kind, as in "tg128"; empty where it was not measured.
    """

    keys: str
    values: str
    bytes: Mapping[int, int]
    kl: float
    error: float
    speed: Mapping[str, float]


@dataclass(frozen=True)
class Facts:
    """Everything that is known when the card is written.

    Attributes:
        title: the model's name.
        base_model, license, languages, tags, pipeline_tag, quantized_by, repository: as in
            ``CardFacts``, completed from the model's metadata; None or empty where unknown.
        files: in the order in which they were asked for.
        projector: the name and the SHA-256 of the mmproj file; None without one.
        results: what was measured; None where nothing was.
        caches: what smaller KV caches of the first file cost; empty where it was not measured.
        calibration: how the importance matrix was made, in a sentence; empty without one.
        versions: of apex and of what it runs, by name.
        plots: paths of pictures, relative to the card, and what they show.
    """

    title: str
    base_model: str | None
    license: str | None
    languages: tuple[str, ...]
    tags: tuple[str, ...]
    pipeline_tag: str
    quantized_by: str | None
    repository: str | None
    files: Sequence[PublishedFile]
    projector: tuple[str, str] | None
    results: Results | None
    caches: Sequence[Cache]
    calibration: str
    versions: Mapping[str, str]
    plots: Sequence[tuple[str, str]]


def facts_of(card: CardFacts, metadata: Mapping[str, Any], title: str, **rest: Any) -> Facts:
    """Complete what the user gave from the metadata that llama.cpp's converter writes."""
    found = card.base_model or _base_model(metadata)
    return Facts(
        title=str(metadata.get("general.name") or title),
        base_model=found,
        license=card.license or _text(metadata, "general.license"),
        languages=card.languages or _texts(metadata, "general.languages"),
        tags=tuple(dict.fromkeys(("gguf", "apex", *card.tags))),
        pipeline_tag=card.pipeline_tag or "text-generation",
        quantized_by=card.quantized_by,
        repository=card.repository,
        **rest,
    )


def _base_model(metadata: Mapping[str, Any]) -> str | None:
    """Of the model itself, else of what it was made from: the part of its address that names it."""
    for key in ("general.repo_url", "general.source.repo_url", "general.base_model.0.repo_url"):
        address = _text(metadata, key)
        if address is not None and address.startswith(_HUB):
            return address.removeprefix(_HUB).strip("/")
    return None


def _text(metadata: Mapping[str, Any], key: str) -> str | None:
    value = metadata.get(key)
    return value if isinstance(value, str) and value else None


def _texts(metadata: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = metadata.get(key)
    return tuple(map(str, value)) if isinstance(value, list) else ()
