"""The usual data for evaluations: where it is, at which commit, and its checksum."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

from apex.errors import UsageError
from apex.evaluation.downloads import Download, download
from apex.evaluation.task_files import load_tasks
from apex.files import OutputSet, check_output
from apex.inference import read_bytes, require_utf8

__all__ = ["DATA_SETS", "DataSet", "FoundSet", "fetch_data_set", "find_data_set"]

SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class DataSet:
    """A file to evaluate with.

    Attributes:
        name: by which it is asked for.
        kind: text, hellaswag, winogrande or multiple-choice: the option of apex eval that takes it.
        file: its name in the user's folder.
        address: of the commit that is pinned; ``{hub}`` stands for the Hub.
        about: what it is, in some words.
        sha256: of the file; None where nobody has published it. The Hub's own is then compared.
        member: of a ZIP archive at the address; None where that is the file.
    """

    name: str
    kind: str
    file: str
    address: str
    about: str
    sha256: str | None = None
    member: str | None = None

    @property
    def url(self) -> str:
        """The address, with the Hub that HF_ENDPOINT names."""
        hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        return self.address.replace("{hub}", hub.rstrip("/"))

    @property
    def option(self) -> str:
        """How apex eval is given it."""
        return "-f" if self.kind == "text" else f"--{self.kind}"


_CHOICES = (
    "{hub}/datasets/ikawrakow/validation-datasets-for-llama.cpp/resolve/"
    "37884b81b4957f1950a53b6ff48d77c8dd5e430c/"
)

DATA_SETS = (
    DataSet(
        "wikitext-2",
        "text",
        "wiki.test.raw",
        "{hub}/datasets/ggml-org/ci/resolve/927b3642933080f1b0e811e2f916e14c292992f9/"
        "wikitext-2-raw-v1.zip",
        "articles of Wikipedia, the text of most published perplexities",
        "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
        "wikitext-2-raw/wiki.test.raw",
    ),
    DataSet(
        "hellaswag",
        "hellaswag",
        "hellaswag_val_full.txt",
        "https://raw.githubusercontent.com/klosax/hellaswag_text_data/"
        "1105d370f8340eac3c63a91fd1fa58e8999f9505/hellaswag_val_full.txt",
        "how a situation goes on",
        "d572539320eb2050e858ca34b495bbe2103e3b3f1391a9c3bcdf215b0bb93bd1",
    ),
    DataSet(
        "winogrande",
        "winogrande",
        "winogrande-debiased-eval.csv",
        "{hub}/datasets/ikawrakow/winogrande-eval-for-llama.cpp/resolve/"
        "93f7fb0697ca6cd2c7e5727dcba3b7200fa4014c/winogrande-debiased-eval.csv",
        "whom a sentence is about",
        "6726173ef65ffdc4abb0d28b755375d288ffb3eb41633bd833288c411c8ebf7c",
    ),
    DataSet(
        "mmlu",
        "multiple-choice",
        "mmlu-validation.bin",
        f"{_CHOICES}mmlu-validation.bin",
        "knowledge of 57 subjects, the validation questions",
    ),
    DataSet(
        "mmlu-test",
        "multiple-choice",
        "mmlu-test.bin",
        f"{_CHOICES}mmlu-test.bin",
        "the same, the test questions, of which there are nine times as many",
    ),
    DataSet(
        "arc-challenge",
        "multiple-choice",
        "arc-challenge-validation.bin",
        f"{_CHOICES}arc-challenge-validation.bin",
        "science at school, the harder questions",
    ),
    DataSet(
        "truthfulqa",
        "multiple-choice",
        "truthful-qa-validation.bin",
        f"{_CHOICES}truthful-qa-validation.bin",
        "questions that people answer wrongly",
    ),
)


@dataclass(frozen=True)
class FoundSet:
    """A data set that is in the user's folder and can be read.

    Attributes:
        data_set: which.
        path: where it is.
        sha256: of the file.
        tasks: how many it holds; None for a text.
        was_fetched: whether it was fetched just now.
        was_compared: whether its checksum was compared with one; False for a file that was put
            there by hand, of which none is known. It is recorded, and compared from then on.
    """

    data_set: DataSet
    path: Path
    sha256: str
    tasks: int | None
    was_fetched: bool
    was_compared: bool


def find_data_set(name: str) -> DataSet:
    """By name. Raises UsageError."""
    for data_set in DATA_SETS:
        if data_set.name == name:
            return data_set
    known = ", ".join(data_set.name for data_set in DATA_SETS)
    raise UsageError(f"There is no data set {name!r}.", f"choose from {known}, or all")


def fetch_data_set(data_set: DataSet, folder: Path, *, overwrite: bool = False) -> FoundSet:
    """Bring a data set into a folder, or check the one that is there.

    Its SHA-256 is that of ``DATA_SETS``; where that has none, the one that the folder's SHA256SUMS
    recorded, or that the Hub has of the file. Raises UsageError where the file cannot be fetched or
    is another one, and OutputError.
    """
    path = folder / data_set.file
    sums = _recorded(folder)
    was_fetched = overwrite or not path.exists()
    if was_fetched:
        found = _downloaded(data_set, path)
    else:
        found = Download(read_bytes(path), sums.get(data_set.file))
    data, expected = found.data, data_set.sha256 or found.sha256
    digest = hashlib.sha256(data).hexdigest()
    if expected not in (None, digest):
        raise UsageError(
            f"{data_set.url if was_fetched else path} is not the {data_set.name} that is "
            f"meant: its SHA-256 is {digest[:12]}…, not {str(expected)[:12]}….",
            f"fetch it anew with --overwrite, or {_by_hand(data_set, path)}",
        )
    if was_fetched:
        _write(path, data, overwrite=overwrite)
    tasks = _count(data_set, path, data)
    if sums.get(data_set.file) != digest:
        lines = {**sums, data_set.file: digest}
        text = "".join(f"{value}  {name}\n" for name, value in sorted(lines.items()))
        _write(folder / SUMS, text.encode(), overwrite=True)
    return FoundSet(data_set, path, digest, tasks, was_fetched, expected is not None)


def _recorded(folder: Path) -> Mapping[str, str]:
    """What the folder's SHA256SUMS says, by the names of files."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError):
        raise UsageError(f"{folder / SUMS} cannot be read.", "remove it") from None
    pairs = (line.split(maxsplit=1) for line in lines)
    return {pair[1].strip(): pair[0] for pair in pairs if len(pair) == 2}


def _downloaded(data_set: DataSet, path: Path) -> Download:
    """What is at the address, or in the archive there."""
    try:
        found = download(data_set.url, needs_checksum=data_set.sha256 is None)
    except UsageError as error:
        raise UsageError(error.message, _by_hand(data_set, path)) from None
    if data_set.member is None:
        return found
    try:
        with zipfile.ZipFile(io.BytesIO(found.data)) as archive:
            return Download(archive.read(data_set.member), None)
    except (BadZipFile, KeyError):
        raise UsageError(
            f"{data_set.url} is not an archive with {data_set.member}.", _by_hand(data_set, path)
        ) from None


def _by_hand(data_set: DataSet, path: Path) -> str:
    """What to do where it cannot be fetched here."""
    inside = "" if data_set.member is None else f", in it {data_set.member}"
    return f"get {data_set.url}{inside} elsewhere, and put it there as {path}"


def _count(data_set: DataSet, path: Path, data: bytes) -> int | None:
    """How many tasks the file holds. Raises UsageError where apex eval could not take it."""
    if data_set.kind == "text":
        require_utf8(data, str(path))
        return None
    return load_tasks(data_set.kind, path).available


def _write(path: Path, data: bytes, *, overwrite: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    check_output([path], [], overwrite=overwrite)
    with OutputSet([path]) as files:
        files.files[0].write(data)
        files.commit()
