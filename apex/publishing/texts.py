"""What goes beside the files: checksums, the card, LocalAI's gallery and Ollama's Modelfile."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from apex.files import OutputSet
from apex.publishing.card import render_card, short_name
from apex.publishing.facts import Facts

__all__ = ["gallery", "modelfile", "read_checksums", "write_checksums", "write_texts"]

_BLOCK = 4 << 20
_TEMPLATE = "github:mudler/LocalAI/gallery/virtual.yaml@master"


def write_checksums(
    output: Path, paths: Sequence[Path], progress: Callable[[int, int], None]
) -> None:
    """A file as sha256sum writes it, with names relative to its folder. progress: bytes, of all."""
    total, done, lines = sum(path.stat().st_size for path in paths), 0, []
    for path in paths:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                done += len(block)
                progress(done, total)
        lines.append(f"{digest.hexdigest()}  {path.relative_to(output.parent).as_posix()}\n")
    _write({output: "".join(lines)})


def read_checksums(path: Path) -> dict[str, str]:
    """By name, the SHA-256 in hexadecimal."""
    lines = path.read_text("utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def write_texts(folder: Path, facts: Facts) -> tuple[Path, ...]:
    """The card, the gallery and the Modelfile; all of them, or none."""
    texts = {
        folder / "README.md": render_card(facts),
        folder / "gallery.yaml": gallery(facts),
        folder / "Modelfile": modelfile(facts),
    }
    _write(texts)
    return tuple(texts)


def _write(texts: Mapping[Path, str]) -> None:
    with OutputSet(list(texts)) as files:
        for file, text in zip(files.files, texts.values(), strict=True):
            file.write(text.encode())
        files.commit()


def gallery(facts: Facts) -> str:
    """Entries for LocalAI's gallery, one for each file."""
    text: str = yaml.safe_dump(
        [_entry(facts, index) for index in range(len(facts.files))],
        sort_keys=False,
        allow_unicode=True,
        width=1000,
    )
    return text


def _entry(facts: Facts, index: int) -> dict[str, Any]:
    file = facts.files[index]
    repository = facts.repository or "OWNER/NAME"
    place = f"llama-cpp/models/{repository.rpartition('/')[2]}"
    urls = [f"https://huggingface.co/{name}" for name in (facts.base_model, repository) if name]
    named = [(path.name, digest) for path, digest in zip(file.paths, file.sha256, strict=True)]
    if facts.projector is not None:
        named.append(facts.projector)
    entry = {
        "name": f"{short_name(facts)}-apex-{file.tier}",
        "url": _TEMPLATE,
        "urls": urls,
        "description": f"{facts.title}, tier {file.tier}. {file.description}",
        "license": facts.license,
        "tags": ["llm", *facts.tags],
        "overrides": {
            "backend": "llama-cpp",
            "known_usecases": ["chat"],
            "options": ["use_jinja:true"],
            "parameters": {"model": f"{place}/{file.name}"},
            **({} if facts.projector is None else {"mmproj": f"{place}/{facts.projector[0]}"}),
            "template": {"use_tokenizer_template": True},
        },
        "files": [
            {
                "filename": f"{place}/{name}",
                "sha256": digest,
                "uri": f"huggingface://{repository}/{name}",
            }
            for name, digest in named
        ],
    }
    return {name: value for name, value in entry.items() if value is not None}


def modelfile(facts: Facts) -> str:
    """For Ollama: the first file; the others as comments."""
    first, *others = facts.files
    lines = [f"FROM ./{first.name}", *(f"# FROM ./{file.name}" for file in others)]
    return "\n".join(lines) + "\n"
