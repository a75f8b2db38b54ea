"""A model that is open here, as lm-evaluation-harness sees it; imported where that is installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from apex import _core
from apex.errors import RunError
from apex.evaluation.continuations import SEQUENCES, Continuations, groups, lay_out, run_batch
from apex.evaluation.generation import Prompt, Sampling, end_tokens, generate
from apex.evaluation.harness.chat import render_chat
from apex.inference import RunOptions, Tokens, make_context, running
from apex.sources import ModelFile

__all__ = ["HarnessModel"]

# What lm-evaluation-harness's own models write where a task does not say how much.
_DEFAULT_LIMIT = 256
# Continuations of one context that run together at most; each takes a state of its own in hybrids.
_TOGETHER = 16
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")

# What is done, how much of it, and of how much.
Progress = Callable[[str, int, int], None]
Encoded = tuple[Any, list[int], list[int]]  # texts, tokens of the context, of the continuation


class HarnessModel(TemplateLM):  # type: ignore[misc]
    """Answers the harness's requests: log-likelihoods of texts, and text that the model writes.

    Attributes:
        max_length: how many tokens the model sees at most.
        truncated: how many requests lost their beginning, because they were longer.
    """

    def __init__(
        self,
        file: ModelFile,
        model: _core.Model,
        options: RunOptions,
        max_length: int | None,
        progress: Progress,
    ) -> None:
        super().__init__()
        self._file, self._model, self._options, self._progress = file, model, options, progress
        self.max_length = max_length or model.context_length
        self.truncated = 0
        self._bos = model.piece(model.bos).decode(errors="replace") if model.bos >= 0 else ""
        self._ends = end_tokens(file)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        eos = self._file.metadata.get("tokenizer.ggml.eos_token_id")
        return int(eos) if eos is not None else min(self._ends, default=self._model.bos)

    @property
    def prefix_token_id(self) -> int:
        """The token that stands before a text that has nothing before it."""
        return self._model.bos if self._model.adds_bos else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        """The model's file."""
        return str(self._file.path)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Tokens of a text; the one that begins a text comes first, unless it is there already."""
        if add_special_tokens is None:
            add_special_tokens = not (self._bos and string.startswith(self._bos))
        tokens = self._model.tokenize(
            string.encode(), add_special=add_special_tokens, parse_special=True
        )
        return [int(token) for token in tokens]

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Of each (context, continuation), ln p and whether it is the likeliest, token by token."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[Encoded], **_: Any
    ) -> list[tuple[float, bool]]:
        """The same of tokens. Continuations of one context that follow one another share it."""
        contexts: list[tuple[list[int], list[list[int]]]] = []
        for _, context, continuation in requests:
            same = contexts and contexts[-1][0] == context and len(contexts[-1][1]) < _TOGETHER
            if not same:
                contexts.append((context, []))
            contexts[-1][1].append(continuation)
        return self._score([self._scored(*each) for each in contexts])

    def _scored(self, context: list[int], continuations: Sequence[list[int]]) -> _Scored:
        """Without the beginning of the context, where the model cannot see all of it.

        The last token of a continuation is predicted, and not seen.
        """
        longest = max(map(len, continuations))
        if longest > self.max_length:
            raise RunError(
                f"A task asks for {longest} tokens in one piece, and {self._file.path} sees at "
                f"most {self.max_length}.",
                "leave the task out, or use a larger --harness-context",
            )
        gone = max(0, len(context) + longest - self.max_length - 1)
        self.truncated += gone > 0
        left = context[gone:]
        return _Scored([np.array(left + part, np.int32) for part in continuations], len(left))

    def _score(self, items: Sequence[_Scored]) -> list[tuple[float, bool]]:
        """In order; as many at a time as a batch holds."""
        if not items:
            return []
        sequences = max(SEQUENCES, *(len(item.tokens) for item in items))
        length = max(self._options.batch_size, *(item.needed for item in items))
        context = make_context(
            self._file,
            self._model,
            replace(self._options, context_length=-(-length // sequences)),
            sequences=sequences,
            unified_cache=True,
        )
        results: list[tuple[float, bool]] = []
        total = sum(len(item.tokens) for item in items)
        for group in groups(items, length, sequences):
            with running(self._file.path):
                results += _scores(context, group, self._options)
            self._progress("log-likelihoods", len(results), total)
        return results

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = True
    ) -> list[float]:
        """Of each text, ln p of all of its tokens, each seen once, in windows of ``max_length``."""
        encoded: list[Encoded] = []
        ends = []
        for request in requests:
            (text,) = request.args
            windows = get_rolling_token_windows(
                self.tok_encode(text, add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            encoded += [("", *make_disjoint_window(window)) for window in windows]
            ends.append(len(encoded))
        scores = [score for score, _ in self._loglikelihood_tokens(encoded)]
        begins = [0, *ends][:-1]
        return [sum(scores[b:e]) for b, e in zip(begins, ends, strict=True)]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """What the model writes after each context, until a stop sequence, an end or a limit."""
        prompts = [self._prompt(*request.args) for request in requests]

        def progress(done: int) -> None:
            self._progress("generation", done, len(prompts))

        return generate(self._file, self._model, prompts, self._options, progress)

    def _prompt(self, context: str, wishes: Mapping[str, Any]) -> Prompt:
        limit = next((int(wishes[n]) for n in _LIMITS if wishes.get(n) is not None), _DEFAULT_LIMIT)
        room = self.max_length - limit
        if room < 1:
            raise RunError(
                f"A task lets the model write {limit} tokens, and {self._file.path} sees at most "
                f"{self.max_length}.",
                "leave the task out, or use a larger --harness-context",
            )
        tokens = self.tok_encode(context) or [self.prefix_token_id]
        self.truncated += len(tokens) > room
        until = wishes.get("until") or ()
        sampling = None
        temperature = wishes.get("temperature")
        if wishes.get("do_sample", bool(temperature)) and temperature != 0:
            sampling = Sampling(
                1.0 if temperature is None else float(temperature),
                float(wishes.get("top_p") or 1),
                int(wishes.get("top_k") or 0),
            )
        return Prompt(
            np.array(tokens[-room:], np.int32),
            limit,
            (until,) if isinstance(until, str) else tuple(until),
            sampling,
        )

    def apply_chat_template(
        self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Messages as the model's own template writes them, as transformers renders it.

        Without the prompt that asks for an answer, the text ends with the last message, so that the
        model goes on with it. Raises UsageError where there is no template, or it refuses them.
        """
        tokens = {
            f"{name}_token": self._model.piece(int(token)).decode(errors="replace")
            for name in ("bos", "eos")
            if (token := self._file.metadata.get(f"tokenizer.ggml.{name}_token_id")) is not None
        }
        text = render_chat(self._file, chat_history, tokens, asks=add_generation_prompt)
        if not add_generation_prompt:
            last = chat_history[-1]["content"].strip()
            text = text[: text.rindex(last) + len(last)] if last in text else text
        return text


class _Scored(Continuations):
    """Texts of one context, and from where on they are scored."""

    def __init__(self, tokens: Sequence[Tokens], start: int) -> None:
        super().__init__(tokens, prefix=start)
        self.start = start


def _scores(
    context: _core.Context, group: Sequence[_Scored], options: RunOptions
) -> list[tuple[float, bool]]:
    """Of each text, ln p of its tokens from the start on, and whether each is the likeliest."""
    rows, tokens, counts = [], [], []
    row = 0
    for item in group:
        shared = row  # of the last token that all have
        row += 1
        for text in item.tokens:
            own = np.arange(row, row + len(text) - item.prefix - 1)
            rows.append(np.concatenate(([shared], own))[item.start - item.prefix :])
            tokens.append(text[item.start :])
            counts.append(len(text) - item.start)
            row += len(own)
    batch = lay_out(group, lambda text, places: places < len(text) - 1)
    all_rows, all_tokens = np.concatenate(rows), np.concatenate(tokens)
    log_likelihoods = np.zeros(len(all_rows))
    likeliest = np.zeros(len(all_rows), bool)
    for there in run_batch(context, batch, options):
        here = (all_rows >= there.start) & (all_rows < there.stop)
        if here.any():
            costs, top = context.score(
                all_rows[here] - there.start, all_tokens[here], options.threads
            )
            log_likelihoods[here], likeliest[here] = -costs, top == all_tokens[here]
    places = np.cumsum(counts)[:-1]
    return [
        (float(own.sum()), bool(greedy.all()))
        for own, greedy in zip(
            np.split(log_likelihoods, places), np.split(likeliest, places), strict=True
        )
    ]
