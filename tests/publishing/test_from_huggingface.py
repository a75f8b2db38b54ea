"""From a model in Hugging Face form to a published folder: what is converted, kept and removed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from support.huggingface import name_of
from test_publish import contents, make_asked, run

import apex
from apex.errors import ModelFileError, UsageError
from apex.publishing import Pipeline, Publication

pytest.importorskip("torch", reason="apex-quant[hf] is not installed")
pytest.importorskip("transformers", reason="apex-quant[hf] is not installed")
pytestmark = pytest.mark.xdist_group("huggingface")


@pytest.fixture
def asked(llama_folder: Path, tmp_path: Path) -> Publication:
    return make_asked(llama_folder / "llama", tmp_path)


def test_the_files_are_those_of_the_converted_model(
    asked: Publication, llama_folder: Path, tmp_path: Path
) -> None:
    ran = run(asked)
    assert next(iter(ran)) == "convert"
    file = tmp_path / "llama-BF16.gguf"
    shutil.copyfile(llama_folder / name_of("llama", ()), file)
    converted, base = (asked.folder / "work" / name for name in ("llama-BF16.gguf", "llama-BF16"))
    assert converted.read_bytes() == file.read_bytes()
    from_file = replace(asked, model=file, folder=tmp_path / "from-file")
    run(from_file)
    assert contents(asked.folder) == {
        **contents(from_file.folder),
        "work/llama-BF16.gguf": contents(asked.folder)["work/llama-BF16.gguf"],
    }
    pipeline = Pipeline(asked)
    removed = pipeline.run(pipeline.due(), lambda *step: None, lambda *progress: None, keep=False)
    assert removed == [converted, base]
    assert not converted.exists() and not base.exists()
    assert run(asked) == {}
    more = replace(asked, tiers=(*asked.tiers, "nano"))
    assert list(run(more)) == [  # the others stay, and what they are compared with is made again
        *("convert", "quantize", "verify nano"),
        *("evaluate the original", "evaluate nano", "report", "checksums", "card"),
    ]


def test_nothing_is_converted_where_nothing_runs(asked: Publication) -> None:
    asked = replace(asked, tiers=("quality",), evaluate_on=None)
    assert list(run(asked)) == ["quantize", "verify quality", "checksums", "card"]
    quality = asked.folder / "llama-APEX-Quality.gguf"
    apex.quantize(asked.model, asked.folder / "alone.gguf", tier="quality")
    assert quality.read_bytes() == (asked.folder / "alone.gguf").read_bytes()


def test_a_changed_weight_is_seen(asked: Publication, tmp_path: Path) -> None:
    asked = replace(asked, tiers=("quality",), evaluate_on=None)
    folder = Path(shutil.copytree(asked.model, tmp_path / "llama"))
    asked = replace(asked, model=folder)
    run(asked)
    weights = sorted(folder.glob("*.safetensors"))[0]
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert run(asked)["quantize"] == "model has changed"


def test_what_a_model_has_not(asked: Publication, tiny_model: Path) -> None:
    with pytest.raises(ModelFileError, match="knows no projector"):
        Pipeline(replace(asked, mmproj=True))
    with pytest.raises(ModelFileError, match="multi-token-prediction head"):
        Pipeline(replace(asked, mtp=False))
    with pytest.raises(UsageError, match=r"--no-mtp is for .* is a GGUF file"):
        Pipeline(replace(asked, model=tiny_model, mtp=False))
    assert not asked.folder.exists()


@pytest.mark.slow
def test_a_head_is_named(asked: Publication, models_folder: Path) -> None:
    asked = replace(asked, model=models_folder / "qwen3_next", tiers=("mini",), evaluate_on=None)
    with_head, without = Pipeline(asked).planned, Pipeline(replace(asked, mtp=False)).planned
    assert with_head.files["mini"].name == "qwen3_next-MTP-APEX-Mini.gguf"
    assert without.files["mini"].name == "qwen3_next-APEX-Mini.gguf"
    assert with_head.model != without.model
