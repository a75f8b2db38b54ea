"""The usual data: fetched, checked, recorded, or found where a person put it."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support import language
from support.datasets_hub import DatasetsHub, File, large, serving, small

from apex.errors import UsageError
from apex.evaluation.data_sets import DATA_SETS, DataSet, fetch_data_set, find_data_set

TEXT = b"What is known of a text.\n" * 40
MMLU = find_data_set("mmlu")
PLACE = MMLU.address.removeprefix("{hub}")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[DatasetsHub]:
    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
        yield hub


@pytest.fixture
def tasks(tmp_path: Path) -> bytes:
    language.write_multiple_choice(tmp_path / "tasks.bin", 7)
    return (tmp_path / "tasks.bin").read_bytes()


def text_set(data: bytes = TEXT) -> DataSet:
    digest = hashlib.sha256(data).hexdigest()
    return DataSet("text", "text", "text.txt", "{hub}/text.txt", "a text", digest)


def test_all_are_pinned() -> None:
    assert len({data_set.file for data_set in DATA_SETS}) == len(DATA_SETS)
    for data_set in DATA_SETS:
        assert find_data_set(data_set.name) is data_set
        assert re.search("/[0-9a-f]{40}/", data_set.address)
        assert data_set.sha256 is None or re.fullmatch("[0-9a-f]{64}", data_set.sha256)
    with pytest.raises(UsageError, match="no data set 'wikitext'") as caught:
        find_data_set("wikitext")
    assert "wikitext-2" in caught.value.hint


@pytest.mark.parametrize("kind", [large, small])
def test_the_hubs_checksum_counts_where_nobody_published_one(
    hub: DatasetsHub, tasks: bytes, tmp_path: Path, kind: object
) -> None:
    hub.files[PLACE] = large(tasks) if kind is large else small(tasks)
    folder = tmp_path / "data"
    found = fetch_data_set(MMLU, folder)
    assert (found.tasks, found.was_fetched, found.was_compared) == (7, True, True)
    assert (folder / MMLU.file).read_bytes() == tasks
    digest = hashlib.sha256(tasks).hexdigest()
    assert (folder / "SHA256SUMS").read_text() == f"{digest}  {MMLU.file}\n"
    again = fetch_data_set(MMLU, folder)
    assert (again.tasks, again.was_fetched, again.was_compared) == (7, False, True)
    assert hub.sent[PLACE] == 1


def test_what_is_not_the_same_on_its_way(hub: DatasetsHub, tasks: bytes, tmp_path: Path) -> None:
    for file, message in (
        (replace(large(tasks), data=tasks[:-1] + b"\1"), "was damaged on its way"),
        (replace(small(tasks), data=tasks[:-1] + b"\1"), "was damaged on its way"),
        (File(tasks, {"ETag": '"2-x"'}), "comes without a checksum"),
        (replace(large(tasks), cut=9), "cannot be fetched"),
    ):
        hub.files[PLACE] = file
        with pytest.raises(UsageError, match=message) as caught:
            fetch_data_set(MMLU, tmp_path / "data")
        assert caught.value.hint.startswith(f"get {hub.url}{PLACE} elsewhere")
        assert not (tmp_path / "data").exists()


def test_a_checksum_that_is_known(hub: DatasetsHub, tmp_path: Path) -> None:
    hub.files["/text.txt"] = File(TEXT)
    assert fetch_data_set(text_set(), tmp_path).tasks is None
    (tmp_path / "text.txt").write_bytes(TEXT[1:])
    with pytest.raises(UsageError, match=r"text\.txt is not the text that is meant") as caught:
        fetch_data_set(text_set(), tmp_path)
    assert "--overwrite" in caught.value.hint
    assert fetch_data_set(text_set(), tmp_path, overwrite=True).was_fetched
    assert (tmp_path / "text.txt").read_bytes() == TEXT
    with pytest.raises(UsageError, match=rf"{hub.url}/text\.txt is not the text that is meant"):
        fetch_data_set(text_set(TEXT[1:]), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_member_of_an_archive(hub: DatasetsHub, tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("folder/text", TEXT)
    hub.files["/text.txt"] = File(archive.getvalue())
    member = replace(text_set(), member="folder/text")
    assert fetch_data_set(member, tmp_path).path.read_bytes() == TEXT
    with pytest.raises(UsageError, match="is not an archive with other"):
        fetch_data_set(replace(member, member="other"), tmp_path, overwrite=True)
    hub.files["/text.txt"] = File(TEXT)
    with pytest.raises(UsageError, match="is not an archive with folder/text") as caught:
        fetch_data_set(member, tmp_path, overwrite=True)
    assert "text.txt, in it folder/text elsewhere" in caught.value.hint


def test_what_a_person_put_there(hub: DatasetsHub, tasks: bytes, tmp_path: Path) -> None:
    """It is compared with what is known; where nothing is, with what it was the first time."""
    path = tmp_path / MMLU.file
    path.write_bytes(tasks)
    found = fetch_data_set(MMLU, tmp_path)
    assert (found.tasks, found.was_fetched, found.was_compared) == (7, False, False)
    assert fetch_data_set(MMLU, tmp_path).was_compared
    path.write_bytes(tasks + b"\0")
    with pytest.raises(UsageError, match="is not the mmlu that is meant"):
        fetch_data_set(MMLU, tmp_path)
    hub.files[PLACE] = large(tasks + b"\0\0")  # the Hub is right, whatever was recorded
    assert fetch_data_set(MMLU, tmp_path, overwrite=True).was_fetched
    assert fetch_data_set(MMLU, tmp_path).was_compared
    (tmp_path / "SHA256SUMS").unlink()
    path.write_bytes(b"no tasks")
    with pytest.raises(UsageError, match="does not hold multiple-choice tasks"):
        fetch_data_set(MMLU, tmp_path)
    assert not (tmp_path / "SHA256SUMS").exists()


def test_a_server_that_is_busy_or_has_nothing(hub: DatasetsHub, tmp_path: Path) -> None:
    hub.files["/text.txt"] = File(TEXT, failures=2)
    assert fetch_data_set(text_set(), tmp_path).was_fetched
    hub.files["/text.txt"].failures = 9
    with pytest.raises(UsageError, match=r"text\.txt cannot be fetched: status 429"):
        fetch_data_set(text_set(), tmp_path, overwrite=True)
    assert hub.files["/text.txt"].failures == 5
    del hub.files["/text.txt"]
    with pytest.raises(UsageError, match="status 404"):
        fetch_data_set(text_set(), tmp_path, overwrite=True)
    assert (tmp_path / "text.txt").read_bytes() == TEXT


def test_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UsageError, match="cannot be fetched: Connection refused") as caught:
        fetch_data_set(find_data_set("wikitext-2"), tmp_path)
    assert f"put it there as {tmp_path / 'wiki.test.raw'}" in caught.value.hint
