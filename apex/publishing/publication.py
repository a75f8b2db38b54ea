"""What is to be published, and of which model; read from a TOML file, or given as it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from apex.errors import UsageError
from apex.policy import is_tier, load_recipe, tiers
from apex.sizes import parse_size
from apex.sources import is_hub_file, is_hub_id

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["CardFacts", "Publication", "load_publication", "template"]

# What may be written as a size, and what K is in it: for shards as llama-gguf-split has it.
_SIZES = {"split_max_size": 1000, "max_memory": 1024}
_SEE = "apex publish --init writes a commented file"

TEMPLATE = """\
# What apex publish makes of a model. Paths are relative to this file; every line may be left out
# but the first two. Words are those of the command line, which wins over what stands here.

model = "OWNER/NAME"              # of the Hub; or a Hugging Face folder, or a GGUF file
folder = "published"

# Tiers, or "all"; apex tiers lists them.
tiers = ["i-quality", "i-balanced", "i-compact", "mini"]

# The importance matrix: texts of your own; the built-in set is used beside them, or alone.
texts = []
built_in = true
# chunks = 100                  # at most so many, of 512 tokens

# How files are judged: a text that is in no calibration, tasks as for llama-perplexity, speed.
# evaluate_on = "wiki.test.raw"
# evaluate_chunks = 100
# hellaswag = "hellaswag_val_full.txt"
# winogrande = "winogrande-debiased-eval.csv"
# harness = ["gsm8k", "ifeval"]  # tasks of lm-evaluation-harness
# harness_limit = 200           # of each the first so many
speed = true
# caches = true                 # what smaller KV caches cost

# Other people's files, measured and shown beside ours.
# baselines = ["other-Q4_K_M.gguf", "OWNER/NAME/FILE.gguf"]

# projector = "mmproj.gguf"     # copied beside the tiers, for models that see
# mmproj = true                 # or: the model's own, converted
# mtp = false                   # without the head for multi-token prediction
# upload = true                 # to the repository below, private unless public = true
# split_max_size = "45G"        # write larger files as shards

[card]
# base_model = "owner/NAME"     # on the Hub; license and languages are those of the model's file
# license = "apache-2.0"
# languages = ["en"]
# tags = ["moe"]
# quantized_by = "me"
# repository = "me/NAME-GGUF"   # where the files will be
"""


@dataclass(frozen=True)
class CardFacts:
    """What the card says of the model; what is None is taken from the model's metadata.

    Attributes:
        base_model: its name on the Hub, as in "owner/NAME".
        license: an identifier, as in "apache-2.0".
        languages: codes, as in "en".
        tags: beside those that every card has.
        pipeline_tag: what the model does, as the Hub calls it.
        quantized_by: who publishes.
        repository: where the files will be, as in "me/NAME-GGUF".
    """

    base_model: str | None = None
    license: str | None = None
    languages: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    pipeline_tag: str | None = None
    quantized_by: str | None = None
    repository: str | None = None


@dataclass(frozen=True)
class Publication:
    """What is to be made of a model.

    Attributes:
        model: a GGUF file, a Hugging Face folder, or a model of the Hub: OWNER/NAME.
        folder: where everything goes.
        tiers: names, or paths of recipes.
        texts: calibration texts; built_in: whether the built-in set is used beside them.
        chunks: how many to calibrate on at most.
        evaluate_on: the text that judges; None for no perplexity and no divergence.
        evaluate_chunks: how many of its chunks at most.
        hellaswag, winogrande, multiple_choice: files of tasks.
        harness, harness_path, harness_limit, harness_chat: tasks of lm-evaluation-harness, and how
            they are run, as in ``HarnessOptions``.
        speed: whether speed is measured.
        caches: whether KV caches of fewer bits are compared, with the first tier.
        baselines: other files of the model, measured and shown beside ours; also of the Hub, as
            OWNER/NAME/FILE.gguf.
        projector: an mmproj file that goes beside the tiers as it is.
        mmproj: whether the model's own projector, converted, goes there instead.
        mtp: whether a head for multi-token prediction stays, where the model has one.
        split_max_size: bytes of tensors in a shard at most; None for one file.
        threads: 0 for all processors.
        max_memory: bytes that quantizing may take.
        upload: whether all goes to the card's repository; public: whether that becomes public.
        card: what the card says.
    """

    model: Path
    folder: Path
    tiers: tuple[str, ...] = ("i-quality", "i-balanced", "i-compact", "mini")
    texts: tuple[Path, ...] = ()
    built_in: bool = True
    chunks: int | None = None
    evaluate_on: Path | None = None
    evaluate_chunks: int | None = None
    hellaswag: Path | None = None
    winogrande: Path | None = None
    multiple_choice: Path | None = None
    harness: tuple[str, ...] = ()
    harness_path: Path | None = None
    harness_limit: int | None = None
    harness_chat: bool = False
    speed: bool = False
    caches: bool = False
    baselines: tuple[Path, ...] = ()
    projector: Path | None = None
    mmproj: bool = False
    mtp: bool = True
    split_max_size: int | None = None
    threads: int = 0
    max_memory: int | None = None
    upload: bool = False
    public: bool = False
    card: CardFacts = field(default_factory=CardFacts)

    @property
    def tasks(self) -> tuple[tuple[str, Path], ...]:
        """The kind and the file of all tasks."""
        kinds = (
            ("hellaswag", self.hellaswag),
            ("winogrande", self.winogrande),
            ("multiple-choice", self.multiple_choice),
        )
        return tuple((kind, path) for kind, path in kinds if path is not None)

    @property
    def measures(self) -> bool:
        """Whether the files are judged."""
        return bool(self.evaluate_on or self.tasks or self.harness or self.speed)

    def checked(self) -> Publication:
        """The same with the names of tiers spelt out. Raises UsageError for what cannot be made."""
        every = [recipe.name for recipe in tiers()]
        names = [name for given in self.tiers for name in (every if given == "all" else [given])]
        if not names:
            raise UsageError("No tier is to be published.", "name one with --tier, or all")
        for name in names:
            load_recipe(name)
        if not (self.texts or self.built_in):
            raise UsageError(
                "There is no text to calibrate on.", "name a text, or leave out --no-built-in"
            )
        read = (*self.texts, *self.baselines, *(path for _, path in self.tasks))
        for path in (*read, self.evaluate_on, self.projector):
            is_of_hub = path in self.baselines and path is not None and is_hub_file(path)
            if path is not None and not path.is_file() and not is_of_hub:
                raise UsageError(f"{path} is not a file.", "check the path")
        if self.baselines and not self.measures:
            raise UsageError(
                "Baselines are measured, and nothing is to be measured.", "give --evaluate-on FILE"
            )
        if self.projector and self.mmproj:
            raise UsageError(
                "A projector is named, and the model's own is wanted.", "leave one of them out"
            )
        return replace(self, tiers=tuple(dict.fromkeys(names)))

    @property
    def needs_importance(self) -> bool:
        """Whether a tier asks for an importance matrix."""
        return any(load_recipe(tier).importance == "required" for tier in self.tiers)


def template() -> str:
    """A commented TOML file to start from."""
    return TEMPLATE


def load_publication(path: str | os.PathLike[str], given: Mapping[str, Any]) -> Publication:
    """Read a TOML file; ``given`` wins over it. Paths are relative to the file.

    Raises UsageError where the file cannot be read or says what cannot be meant.
    """
    file = Path(path)
    try:
        data = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.", _SEE) from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{file} is not valid TOML: {error}.", _SEE) from None
    card = _typed(CardFacts, data.pop("card", {}), f"{file}, [card]", file.parent)
    found = _typed(Publication, data, str(file), file.parent)
    merged = {"card": CardFacts(**card), **found, **given}
    missing = [name for name in ("model", "folder") if name not in merged]
    if missing:
        raise UsageError(f"{file} does not name the {missing[0]}.", _SEE)
    return Publication(**merged)


def _typed(kind: type[Any], data: Any, where: str, folder: Path) -> dict[str, Any]:
    """The values as the fields of the class want them."""
    if not isinstance(data, dict):
        raise UsageError(f"{where} is not a table.", _SEE)
    known = {item.name: str(item.type) for item in fields(kind) if item.name != "card"}
    result: dict[str, Any] = {}
    for name, value in data.items():
        if name not in known:
            raise UsageError(f"{where} has the unknown key {name!r}.", _SEE)
        result[name] = _value(name, known[name], value, f"{where}: {name}", folder)
    return result


def _value(name: str, kind: str, value: Any, where: str, folder: Path) -> Any:
    if kind.startswith("tuple"):
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
            raise UsageError(f"{where} is not a list of strings.", _SEE)
        if "Path" in kind:
            return tuple(_path(name, item, folder) for item in values)
        return tuple(
            str(folder / item) if item.endswith(".toml") and not is_tier(item) else item
            for item in values
        )
    if name in _SIZES and isinstance(value, str):
        return parse_size(value, where, _SIZES[name])
    wanted: type[Any] = str if kind.startswith(("Path", "str")) else int
    if kind == "bool":
        wanted = bool
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        words = {str: "a string", int: "a whole number", bool: "true or false"}
        raise UsageError(f"{where} is not {words[wanted]}.", _SEE)
    return _path(name, value, folder) if kind.startswith("Path") else value


def _path(name: str, value: str, folder: Path) -> Path:
    """Relative to the file, unless it names something of the Hub."""
    path = folder / value
    is_of_hub = {"model": is_hub_id, "baselines": is_hub_file}.get(name)
    if is_of_hub is None or path.exists() or not is_of_hub(value):
        return path
    return Path(value)
