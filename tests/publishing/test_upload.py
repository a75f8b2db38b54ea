"""To the Hub: what goes there, and what stops it. The Hub is a stand-in on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import environment
from support.receiving_hub import TOKEN, Hub, standing_in

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

NAMES = {
    *("README.md", "gallery.yaml", "Modelfile", "SHA256SUMS"),
    *("tiny-APEX-Mini.gguf", "tiny.imatrix.gguf"),
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with standing_in() as hub:
        yield hub


def publish(
    model: Path, folder: Path, hub: Hub, *more: str, token: str = TOKEN
) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the library reads its address and token when it is imported."""
    text = model.parent / "text-to-upload.txt"  # the same for all copies
    text.write_text("the quick brown fox jumps over the lazy dog and runs away " * 40)
    command = [sys.executable, "-m", "apex", "publish", str(model), "-o", str(folder)]
    command += ["--tier", "mini", "--no-built-in", "-f", str(text), "--chunks", "1"]
    return subprocess.run(
        [*command, "--repo", "me/NAME", *more],
        env=environment(
            HF_ENDPOINT=hub.address,
            HF_TOKEN=token,
            HF_HUB_DISABLE_XET="1",
            HF_HUB_DISABLE_TELEMETRY="1",
            HF_HOME=str(folder.parent / "home"),
        ),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of which all is done but the upload. Not to be changed."""
    folder = tmp_path_factory.mktemp("made") / "out"
    with standing_in() as hub:
        done = publish(tiny_model, folder, hub)
        assert done.returncode == 0, done.stderr
        assert not hub.repositories  # nothing without a word
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "out"))


def test_what_was_announced_is_what_goes(tiny_model: Path, folder: Path, hub: Hub) -> None:
    done = publish(tiny_model, folder, hub, "--upload", "--yes")
    assert done.returncode == 0, done.stderr
    repository = hub.repositories["me/NAME"]
    assert repository.private
    assert set(repository.files) == NAMES
    for name, content in repository.files.items():
        assert content == (folder / name).read_bytes()
        assert f"  {name}\n" in done.stderr
    again = publish(tiny_model, folder, hub, "--upload", "--yes")
    assert "up to date" in again.stdout
    assert TOKEN not in done.stderr + done.stdout + (folder / "publish.json").read_text()


def test_nobody_uploads_without_a_word(tiny_model: Path, tmp_path: Path, hub: Hub) -> None:
    folder = tmp_path / "out"
    done = publish(tiny_model, folder, hub, "--upload")
    assert done.returncode == 2
    assert "Nobody can be asked" in done.stderr
    assert not folder.exists()


@pytest.mark.parametrize(
    ("part", "status", "words"),
    [
        ("/create", 403, "may not write there"),
        ("/commit", 500, "the Hub answers 500"),
        ("/batch", 400, "the Hub answers 400"),
        ("/objects/", 400, "was not uploaded"),
    ],
)
def test_a_hub_that_refuses(
    tiny_model: Path, folder: Path, hub: Hub, part: str, status: int, words: str
) -> None:
    """One sentence; the same command goes on, and what arrived is not sent again."""
    hub.refusals += [(part, status)] * 20
    done = publish(tiny_model, folder, hub, "--upload", "--yes")
    assert done.returncode == 6, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    state = json.loads((folder / "publish.json").read_text())["steps"]
    assert state["card"]["done"] and not state["upload"]["done"]
    before, hub.refusals = hub.received, []
    again = publish(tiny_model, folder, hub, "--upload", "--yes")
    assert again.returncode == 0, again.stderr
    assert hub.received <= 2 and before <= hub.received
    assert set(hub.repositories["me/NAME"].files) == NAMES


def test_a_token_that_is_not_known(tiny_model: Path, folder: Path, hub: Hub) -> None:
    done = publish(tiny_model, folder, hub, "--upload", "--yes", token="hf_other")
    assert done.returncode == 6
    assert "the token is not valid" in done.stderr


def test_without_a_network(tiny_model: Path, folder: Path) -> None:
    gone = Hub("http://127.0.0.1:9")
    done = publish(tiny_model, folder, gone, "--upload", "--yes")
    assert done.returncode == 6
    assert "check the network" in done.stderr
    assert (folder / "README.md").exists()
