"""What is refused as an output, before anything is written."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from apex.errors import OutputError
from apex.files import check_output

LINKS: dict[str, Callable[[Path, Path], None]] = {
    "hard": lambda source, link: os.link(source, link),
    "symbolic": lambda source, link: link.symlink_to(source),
}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("words")
    return path


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_is_never_an_output(text: Path, tmp_path: Path, overwrite: bool) -> None:
    other = tmp_path / "other.txt"
    other.write_text("more")
    indirect = tmp_path / "folder" / ".." / "text.txt"
    (tmp_path / "folder").mkdir()
    for output in (text, indirect):
        with pytest.raises(OutputError, match="is the input itself"):
            check_output([tmp_path / "new", output], [other, text], overwrite=overwrite)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("is_input", [False, True])
def test_a_link_is_what_it_points_to(text: Path, tmp_path: Path, link: str, is_input: bool) -> None:
    name = tmp_path / "link"
    LINKS[link](text, name)
    output, source = (text, name) if is_input else (name, text)
    with pytest.raises(OutputError, match=r"is the input itself, .* under another name"):
        check_output([output], [source], overwrite=True)


def test_a_file_that_comes_later_is_an_input_too(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is the input itself"):
        check_output([tmp_path / "m.imatrix.gguf"], [tmp_path / "." / "m.imatrix.gguf"])


def test_the_partial_file_is_no_input_either(tmp_path: Path) -> None:
    source = tmp_path / "out.gguf.partial"
    source.write_text("a model")
    with pytest.raises(OutputError, match=r"first written as .*\.partial, which is an input"):
        check_output([tmp_path / "out.gguf"], [source], overwrite=True)


def test_two_outputs_have_two_names(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="two outputs"):
        check_output([tmp_path / "a", tmp_path / "a"])


def test_what_exists_is_replaced_only_if_that_was_asked_for(text: Path) -> None:
    with pytest.raises(OutputError, match="exists already"):
        check_output([text])
    check_output([text], overwrite=True)


def test_only_a_regular_file_is_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, message in (
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is not a regular file"),
        (Path(os.devnull), "is not a regular file"),
    ):
        with pytest.raises(OutputError, match=message):
            check_output([path], overwrite=True)


def test_a_link_without_a_target_is_free(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    check_output([tmp_path / "link"])


def test_the_standard_output_is_not_for_files() -> None:
    with pytest.raises(OutputError, match="does not write to the standard output"):
        check_output(["-"])


@pytest.mark.parametrize("length", [250, 300])  # the first only while it ends in .partial
def test_a_name_that_is_too_long(tmp_path: Path, length: int) -> None:
    with pytest.raises(OutputError, match="is too long for the file system"):
        check_output([tmp_path / ("n" * length)])


def test_folders_are_made_where_there_is_none(text: Path, tmp_path: Path) -> None:
    check_output([tmp_path / "new" / "newer" / "out"])
    with pytest.raises(OutputError, match=r"text\.txt is not a folder"):
        check_output([text / "new" / "out"])


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(OutputError, match="is read-only"):
        check_output([tmp_path / "out"])


def test_a_folder_that_may_not_be_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> os.stat_result:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(OutputError, match="Permission denied"):
        check_output([tmp_path / "out"])


def test_the_free_space_is_asked_for(tmp_path: Path) -> None:
    check_output([tmp_path / "out"], size=1)
    with pytest.raises(OutputError, match=r"GiB free, the output needs"):
        check_output([tmp_path / "out"], size=1 << 60)


def test_nothing_is_made(tmp_path: Path) -> None:
    check_output([tmp_path / "a" / "b"], [tmp_path / "c"], overwrite=True, size=1)
    assert list(tmp_path.iterdir()) == []
