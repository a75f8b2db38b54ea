"""Folders that cannot be converted: one clear sentence each, before anything is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import apex
from apex.errors import ModelFileError, OutputError, UsageError
from apex.sources import open_source
from apex.sources.huggingface import upstream

Break = Callable[[Path], object]


def a_folder(tmp_path: Path) -> Path:
    """Small files that look like a model, as far as they are looked at without torch."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    header = json.dumps({"a": {"dtype": "F16", "shape": [2, 3], "data_offsets": [0, 12]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(12)
    (folder / "model-00001-of-00001.safetensors").write_bytes(data)
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def shard(folder: Path) -> Path:
    return folder / "model-00001-of-00001.safetensors"


def index(folder: Path, text: str) -> None:
    (folder / "model.safetensors.index.json").write_text(text)


def only_pickles(folder: Path) -> None:
    index(folder, "{}")
    (folder / "model.safetensors.index.json").unlink()
    shard(folder).rename(folder / "pytorch_model.bin")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()
    shard(folder).unlink()


def another_header(folder: Path, header: object) -> None:
    data = json.dumps(header).encode()
    shard(folder).write_bytes(len(data).to_bytes(8, "little") + data + bytes(12))


BROKEN: dict[str, tuple[Break, str]] = {
    "no configuration": (
        lambda f: (f / "config.json").unlink(),
        "model has no config.json, so it is not a Hugging Face model",
    ),
    "a configuration that is not JSON": (
        lambda f: (f / "config.json").write_text("{"),
        "config.json is not JSON",
    ),
    "a list as configuration": (
        lambda f: (f / "config.json").write_text("[]"),
        "config.json is not a JSON object",
    ),
    "a missing shard": (
        lambda f: shard(f).unlink(),
        "1 of the 1 shards of .*model is missing: model-00001-of-00001.safetensors",
    ),
    "pickles": (only_pickles, r"only as pickle files \(pytorch_model.bin\)"),
    "no weights": (no_weights, "model has no weights"),
    "a truncated shard": (
        lambda f: shard(f).write_bytes(shard(f).read_bytes()[:-1]),
        r"safetensors is truncated: it has \d+ of \d+ bytes",
    ),
    "a truncated header": (
        lambda f: shard(f).write_bytes(shard(f).read_bytes()[:20]),
        "is truncated, or is not a safetensors file: it has 20 bytes",
    ),
    "an empty shard": (lambda f: shard(f).write_bytes(b""), "it has 0 bytes"),
    "a header that is not JSON": (
        lambda f: shard(f).write_bytes((2).to_bytes(8, "little") + b"{x"),
        "is damaged: its header is not one of safetensors",
    ),
    "a header of another size": (
        lambda f: another_header(f, {"a": {"dtype": "F16", "shape": [3], "data_offsets": [0, 12]}}),
        "is damaged: .*the size of a tensor's data does not fit its shape",
    ),
    "a negative shape": (
        lambda f: another_header(
            f, {"a": {"dtype": "F16", "shape": [-2, -3], "data_offsets": [0, 12]}}
        ),
        "is damaged: .* negative",
    ),
    "a header without shapes": (lambda f: another_header(f, {"a": {}}), "is damaged"),
    "an index without places": (lambda f: index(f, "{}"), "index.json has no weight_map"),
    "an index that leaves the folder": (
        lambda f: index(f, '{"weight_map": {"a": "../other.safetensors"}}'),
        "names a file outside its folder: ../other.safetensors",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_explained(tmp_path: Path, name: str) -> None:
    folder = a_folder(tmp_path)
    change, message = BROKEN[name]
    change(folder)
    with pytest.raises(ModelFileError, match=message) as caught:
        apex.convert(folder, tmp_path / "out.gguf")
    assert caught.value.hint
    assert "\n" not in caught.value.message
    with pytest.raises(ModelFileError, match=message):
        apex.plan(folder, tier="quality")
    assert not (tmp_path / "out.gguf").exists()


def test_without_the_extra_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "_is_installed", lambda name: name == "torch")
    folder = a_folder(tmp_path)
    with pytest.raises(UsageError, match=r"needs transformers, safetensors, sent.*, protobuf") as e:
        open_source(folder)
    assert "pip install 'apex-quant[hf]'" in e.value.hint


@pytest.fixture
def llama(llama_folder: Path, tmp_path: Path) -> Path:
    """A model of one's own, to break."""
    folder = tmp_path / "llama"
    shutil.copytree(llama_folder / "llama", folder)
    return folder


def configure(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(config))


def test_an_unknown_architecture(llama: Path) -> None:
    configure(llama, architectures=["FlyingForCausalLM"])
    with pytest.raises(ModelFileError, match="does not know the architecture FlyingForCausalLM"):
        open_source(llama)


def test_a_model_without_a_projector(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no projector .* of LlamaForCausalLM"):
        apex.convert(llama, tmp_path / "out.gguf", as_projector=True)


def test_a_configuration_without_what_is_needed(llama: Path) -> None:
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps({"architectures": config["architectures"]}))
    with pytest.raises(ModelFileError, match=r"converter does not accept .*llama: "):
        open_source(llama)


def test_no_vocabulary(llama: Path) -> None:
    (llama / "tokenizer.model").unlink()
    with pytest.raises(ModelFileError, match=r"converter does not accept .*llama: "):
        open_source(llama)


def test_code_of_the_model_is_not_run(llama: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (llama / "own.py").write_text(
        f"open({str(trace)!r}, 'w').close()\n"
        "from transformers import PreTrainedTokenizer\n"
        "class Own(PreTrainedTokenizer): pass\n"
    )
    (llama / "tokenizer.model").unlink()
    config = {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}
    (llama / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="wants to run Python files of its own"):
        open_source(llama)
    assert not trace.exists()


def test_outputs_that_cannot_be(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        apex.convert(llama, tmp_path)
    with pytest.raises(UsageError, match="q4_0 is not an output type"):
        apex.convert(llama, tmp_path / "out.gguf", out_type="q4_0")
    with pytest.raises(OutputError, match="is the input itself"):
        apex.convert(llama, llama / "config.json", overwrite=True)
    (tmp_path / "there.gguf").write_bytes(b"")
    with pytest.raises(OutputError, match="exists already"):
        apex.convert(llama, tmp_path / "there.gguf")


def test_a_shard_that_shrinks_afterwards(llama: Path, tmp_path: Path) -> None:
    source = open_source(llama)
    path = sorted(llama.glob("*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:-64])
    with pytest.raises(ModelFileError, match="has changed since it was opened"):
        apex.convert(source, tmp_path / "out.gguf")
    with pytest.raises(ModelFileError, match="ended while it was read"):
        for each in source.tensors:
            source.read(each, 0, memoryview(bytearray(each.bytes)))
    assert not (tmp_path / "out.gguf").exists()


def test_a_changed_folder_is_not_that_of_the_plan(llama: Path, tmp_path: Path) -> None:
    plan = apex.plan(llama, tier="balanced")
    configure(llama, rms_norm_eps=0.125)
    with pytest.raises(ModelFileError, match="has changed since"):
        apex.quantize(plan, tmp_path / "out.gguf")


def test_what_runs_a_model_asks_for_a_file(llama: Path) -> None:
    for call in (apex.open_model, lambda path: apex.calibrate(path, "out.gguf")):
        with pytest.raises(ModelFileError, match="is a Hugging Face model") as caught:
            call(llama)
        assert caught.value.hint == f"apex convert {llama} -o model.gguf makes one"
