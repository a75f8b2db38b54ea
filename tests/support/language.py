"""A small dense model with a real vocabulary, a text, and tasks, for tests of inference."""

from __future__ import annotations

import random
import re
import struct
from pathlib import Path

import gguf
import numpy as np
from support.llama import WIDTH, llama_tensors

from apex import _core
from apex.calibration import built_in_text

VOCABULARY = Path(__file__).parents[2] / "vendor/llama.cpp/models/ggml-vocab-llama-spm.gguf"


def write_language_model(
    path: Path, chat_template: str = "", *, size: int = 32000, width: int = WIDTH, seed: int = 7
) -> None:
    """A llama of two layers, with random weights and the vocabulary of Llama 2 (32000 tokens, BOS).

    The output matrix is large, so that some tokens are much likelier than others. size: take only
    so many tokens, of which the first are the bytes.
    """
    numbers = np.random.default_rng(seed)
    tensors = llama_tensors(2, width, seed=0 if seed == 7 else seed)
    for name, scale in (("token_embd.weight", 1.0), ("output.weight", 1.5)):
        weights = numbers.standard_normal((size, width), dtype=np.float32)
        tensors[name] = (weights * np.float32(scale / width**0.5)).astype(np.float16)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // 4)
    writer.add_file_type(1)
    add_vocabulary(writer, size)
    if chat_template:
        writer.add_chat_template(chat_template)
    for name, data in tensors.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """The first tokens of Llama 2's vocabulary, of which the first are the bytes."""
    vocabulary = _core.Header.read(str(VOCABULARY))
    writer.add_tokenizer_model(vocabulary.get("tokenizer.ggml.model"))
    writer.add_token_list(vocabulary.get("tokenizer.ggml.tokens")[:size])
    writer.add_token_scores(vocabulary.get("tokenizer.ggml.scores")[:size].tolist())
    writer.add_token_types(vocabulary.get("tokenizer.ggml.token_type")[:size].tolist())
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def write_text(path: Path, characters: int = 14000) -> None:
    path.write_text(built_in_text("prose")[:characters], encoding="utf-8")


def _sentences() -> list[str]:
    words = built_in_text("prose")[:16000].replace("\n", " ")
    parts = re.split(r"(?<=[.!?])\s+", words)
    return [part for part in parts if 6 < len(part.split()) < 30 and '"' not in part]


def write_hellaswag(path: Path, count: int) -> None:
    numbers, sentences = random.Random(1), _sentences()
    lines = []
    for _ in range(count):
        words = numbers.choice(sentences).split()
        half = len(words) // 2
        endings = [" ".join(words[half:])]
        endings += [" ".join(numbers.choice(sentences).split()[-5:]) for _ in range(3)]
        order = numbers.sample(range(4), 4)
        lines += [" ".join(words[:half]), str(order.index(0))]
        lines += [endings[place] for place in order]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_winogrande(path: Path, count: int) -> None:
    """Blanks in the middle, at the start and near the end: each is scored in another way."""
    numbers, sentences = random.Random(2), _sentences()
    lines = []
    while len(lines) < count + 1:  # the last is lost, see load_tasks
        words = numbers.choice(sentences).split()
        place = (0, len(words) - 2, numbers.randrange(1, len(words) - 1))[len(lines) % 3]
        right = words[place].strip(".,;:()")
        wrong = numbers.choice(numbers.choice(sentences).split()).strip(".,;:()")
        words[place] = "_"
        sentence = " ".join(words)
        if not right or not wrong or "," in right + wrong:
            continue
        if "," in sentence:
            sentence = f'"{sentence}"'
        answer = numbers.randint(1, 2)
        choices = (right, wrong) if answer == 1 else (wrong, right)
        lines.append(f"{len(lines)},{sentence},{choices[0]},{choices[1]},{answer}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_multiple_choice(path: Path, count: int) -> None:
    numbers, sentences = random.Random(3), _sentences()

    def text(value: str) -> bytes:
        return struct.pack("<I", len(value.encode())) + value.encode()

    tasks = []
    for _ in range(count):
        words = numbers.choice(sentences).split()
        half = len(words) // 2
        answers = [" ".join(words[half:])]
        answers += [
            " ".join(numbers.choice(sentences).split()[-4:]) for _ in range(numbers.randint(1, 3))
        ]
        order = numbers.sample(range(len(answers)), len(answers))
        task = text(" ".join(words[:half])) + struct.pack("<I", len(answers))
        task += b"".join(text(answers[place]) for place in order)
        task += struct.pack(f"<{len(order)}i", *(int(place == 0) for place in order))
        tasks.append(task + struct.pack("<I", 0))
    start = 4 + 4 * count
    places = [start + sum(map(len, tasks[:index])) for index in range(count)]
    path.write_bytes(struct.pack(f"<{count + 1}I", count, *places) + b"".join(tasks))


def next_logits(model: _core.Model, tokens: np.ndarray) -> np.ndarray:
    """float32 (tokens, vocabulary): what follows each token of a text that is run alone."""
    context = _core.Context(model, context_length=512, batch_size=512)
    places = np.arange(len(tokens), dtype=np.int32)
    context.decode(tokens, places, np.zeros_like(places), np.ones(len(tokens), bool))
    return context.logits()
