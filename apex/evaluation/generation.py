"""Text that a model writes: several prompts side by side, until a stop sequence or a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from apex import _core
from apex.evaluation.continuations import SEQUENCES, Continuations, lay_out, run_batch
from apex.inference import RunOptions, Tokens, make_context, running
from apex.sources import ModelFile

__all__ = ["Prompt", "Sampling", "end_tokens", "generate"]

# Tokens that end a text or a turn, by llama.cpp's names of them; metadata names one or two of them.
_ENDS = (
    *("</s>", "<eos>", "[EOS]", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"),
    *("<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<end_of_turn>", "<turn|>"),
    *("<EOT>", "_<EOT>", "[EOT]", "<end_of_utterance>", "<｜end▁of▁sentence｜>", "[e~["),  # noqa: RUF001
)
_CONTROL = 3  # the type of a token that is no text


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn; those of one seed and prompt are always the same.

    Attributes:
        temperature: what logits are divided by.
        top_p: how likely the tokens that are drawn from are together, the likeliest first.
        top_k: from how many tokens is drawn at most; 0 for all.
        seed: of the random numbers.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def random(self, place: int) -> np.random.Generator:
        """The random numbers of one prompt of several."""
        return np.random.default_rng((self.seed, place))

    def draw(self, logits: npt.NDArray[np.float32], random: np.random.Generator) -> int:
        """A token, by its probability."""
        order = np.argsort(-logits, kind="stable")[: self.top_k or None]
        scaled = logits[order].astype(np.float64) / self.temperature
        likely = np.exp(scaled - scaled[0])
        likely /= likely.sum()
        likely = likely[np.cumsum(likely) - likely < self.top_p]
        return int(order[random.choice(len(likely), p=likely / likely.sum())])


@dataclass(frozen=True)
class Prompt:
    """What a model is to go on from.

    Attributes:
        tokens: int32, at least one.
        limit: how many tokens may be written.
        stops: texts before which the answer ends.
        sampling: None for the likeliest token each time.
    """

    tokens: Tokens
    limit: int
    stops: tuple[str, ...] = ()
    sampling: Sampling | None = None


@dataclass
class _Answer:
    """A text in the making."""

    prompt: Prompt
    sequence: int
    random: np.random.Generator | None
    position: int
    text: bytearray = field(default_factory=bytearray)
    written: int = 0
    last: int = 0
    is_done: bool = False

    def take(self, token: int, model: _core.Model, ends: frozenset[int]) -> None:
        """Add a token, and see whether that was the last."""
        self.written, self.last = self.written + 1, token
        self.is_done = self.written >= self.prompt.limit
        if token in ends:
            self.is_done = True
            return
        before = len(self.text)
        self.text += model.piece(token)
        for stop in map(str.encode, self.prompt.stops):
            place = self.text.find(stop, max(0, before - len(stop)))
            if stop and place >= 0:
                del self.text[place:]
                self.is_done = True


def end_tokens(file: ModelFile) -> frozenset[int]:
    """The tokens with which a model ends a text or a turn."""
    data = file.metadata
    keys = (f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom"))
    named = {int(data[key]) for key in keys if key in data}
    tokens = {name: token for token, name in enumerate(data.get("tokenizer.ggml.tokens", ()))}
    types = data.get("tokenizer.ggml.token_type", [_CONTROL] * len(tokens))
    known = {tokens[name] for name in _ENDS if name in tokens}
    return frozenset(named | {token for token in known if types[token] == _CONTROL})


def generate(
    file: ModelFile,
    model: _core.Model,
    prompts: Sequence[Prompt],
    options: RunOptions,
    progress: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """What a model writes after each prompt. Raises RunError.

    The cache is as long as some of the prompts with their answers need, whatever ``options`` say.
    progress: called with the number of answers that are finished.
    """
    begins = range(0, len(prompts), SEQUENCES)
    lengths = [sum(len(p.tokens) + p.limit for p in prompts[b : b + SEQUENCES]) for b in begins]
    each = -(-max(lengths, default=0) // SEQUENCES)
    context = make_context(
        file,
        model,
        replace(options, context_length=max(each, 1)),
        sequences=SEQUENCES,
        unified_cache=True,
    )
    ends = end_tokens(file)
    texts: list[str] = []
    for begin in begins:
        answers = [
            _Answer(
                prompt,
                sequence,
                None if prompt.sampling is None else prompt.sampling.random(begin + sequence),
                len(prompt.tokens),
            )
            for sequence, prompt in enumerate(prompts[begin : begin + SEQUENCES])
        ]
        with running(file.path):
            _write(context, model, answers, options, ends)
        texts += [answer.text.decode("utf-8", errors="replace") for answer in answers]
        progress(len(texts))
    return texts


def _write(
    context: _core.Context,
    model: _core.Model,
    answers: Sequence[_Answer],
    options: RunOptions,
    ends: frozenset[int],
) -> None:
    """Read the prompts, what they share only once; then write token by token."""
    prompts = Continuations(answer.prompt.tokens for answer in answers)
    batch = lay_out([prompts], lambda text, places: places == len(text) - 1)
    batch[3][: prompts.prefix] = False
    waiting = iter(answers)
    for there in run_batch(context, batch, options):
        here = [next(waiting) for _ in there]
        _take(context, model, here, options, ends)
    while active := [answer for answer in answers if not answer.is_done]:
        context.decode(
            [answer.last for answer in active],
            [answer.position for answer in active],
            [answer.sequence for answer in active],
            [True] * len(active),
        )
        for answer in active:
            answer.position += 1
        _take(context, model, active, options, ends)


def _take(
    context: _core.Context,
    model: _core.Model,
    answers: Sequence[_Answer],
    options: RunOptions,
    ends: frozenset[int],
) -> None:
    """Give each answer the next token; the rows of logits are in their order."""
    if not answers:
        return
    rows = np.arange(len(answers))
    _, likeliest = context.score(rows, np.zeros(len(rows), np.int32), options.threads)
    drawn = any(answer.random is not None for answer in answers)
    logits = context.logits() if drawn else None
    for row, answer in enumerate(answers):
        token = int(likeliest[row])
        if logits is not None and answer.prompt.sampling is not None and answer.random is not None:
            token = answer.prompt.sampling.draw(logits[row], answer.random)
        answer.take(token, model, ends)
