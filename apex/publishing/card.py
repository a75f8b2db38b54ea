"""The card: a README.md as the Hub shows it. Only what was measured stands in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from urllib.parse import quote

import yaml

from apex.publishing.facts import Cache, Facts, PublishedFile
from apex.reporting.results import Number, TaskResult, TextResult

__all__ = ["render_card", "short_name", "smallest_without_loss"]

_GIB = 2**30


def render_card(facts: Facts) -> str:
    """The whole of it, front matter first."""
    parts = [
        *_head(facts),
        *_files(facts),
        *_quality(facts),
        *_tasks(facts),
        *_harness(facts),
        *_speed(facts),
        *_memory(facts),
        *_caches(facts),
        *_plots(facts),
        *_how(facts),
        *_use(facts),
    ]
    return _front_matter(facts) + "\n".join(parts) + "\n"


def _front_matter(facts: Facts) -> str:
    data = {
        "base_model": facts.base_model,
        "base_model_relation": "quantized" if facts.base_model else None,
        "license": facts.license,
        "language": list(facts.languages) or None,
        "pipeline_tag": facts.pipeline_tag,
        "library_name": "gguf",
        "quantized_by": facts.quantized_by,
        "tags": list(facts.tags),
    }
    known = {name: value for name, value in data.items() if value is not None}
    return f"---\n{yaml.safe_dump(known, sort_keys=False, allow_unicode=True)}---\n\n"


def _head(facts: Facts) -> Iterator[str]:
    yield f"# {facts.title}, quantized by role and layer (APEX)"
    yield ""
    source = facts.base_model
    of = f"[{source}](https://huggingface.co/{source})" if source else facts.title
    yield (
        f"GGUF files of {of} for llama.cpp and everything that builds on it. Each file gives every "
        "tensor the precision that its role and its layer need; tiers differ in how much that is."
    )


def _files(facts: Facts) -> Iterator[str]:
    yield from ("", "## Files", "", "| file | tier | size | what it is |", "|---|---|---:|---|")
    for file in facts.files:
        more = len(file.paths) - 1
        name = _link(facts, file) + (f" and {more} more" if more else "")
        yield f"| {name} | {file.tier} | {_size(file.bytes)} | {file.description} |"
    if facts.projector is not None:
        name = facts.projector[0]
        shown = f"[{name}]({quote(name)})" if facts.repository else f"`{name}`"
        yield f"| {shown} | | | The projector, for pictures: `--mmproj {name}`, beside any file. |"


def _link(facts: Facts, file: PublishedFile) -> str:
    return f"[{file.name}]({quote(file.name)})" if facts.repository else f"`{file.name}`"


def _quality(facts: Facts) -> Iterator[str]:
    texts = [] if facts.results is None else list(facts.results.texts)
    rows = [text for text in texts if text.perplexity is not None or text.divergence is not None]
    if not rows:
        return
    compared = any(row.divergence for row in rows)
    yield from ("", "## How near they are to the original", "")
    far = " | KL mean | median | 99.9 % | maximum | same top" if compared else ""
    yield f"| file | bits a weight | PPL{far} |"
    yield f"|---|---:|---:|{'---:|' * (5 if compared else 0)}"
    for row in rows:
        yield f"| {' | '.join(_quality_cells(row, compared=compared))} |"
    yield ""
    setting = rows[0].setting
    yield (
        f"*Over {setting.chunks} chunks of {setting.context_length} tokens of {setting.text}"
        + (
            "; KL divergence in nats from the original's probabilities, “same top” how often both "
            "find the same token the most likely.*"
            if compared
            else ".*"
        )
    )


def _quality_cells(row: TextResult, *, compared: bool) -> Iterator[str]:
    yield f"{row.model.label} (original)" if row.model.is_reference else row.model.label
    yield f"{row.model.bits_per_weight:.2f}"
    yield _number(row.perplexity, 3)
    if compared:
        far = row.divergence
        if far is None:
            yield from ("", "", "", "", "")
            return
        yield _number(far.kl, 5)
        yield from (f"{value:.5f}" for value in (far.median, far.p99_9, far.maximum))
        yield f"{100 * far.same_top.value:.2f} %"


def _tasks(facts: Facts) -> Iterator[str]:
    tasks: Sequence[TaskResult] = () if facts.results is None else facts.results.tasks
    if not tasks:
        return
    names = list(dict.fromkeys(task.task for task in tasks))
    yield from ("", "## Tasks", "", f"| file | {' | '.join(names)} |")
    yield f"|---|{'---:|' * len(names)}"
    for model in dict.fromkeys(task.model for task in tasks):
        of = {task.task: task for task in tasks if task.model is model}
        cells = (
            f"{100 * of[n].accuracy.value:.1f} ± {100 * of[n].accuracy.error:.1f}"
            if n in of
            else ""
            for n in names
        )
        yield f"| {model.label} | {' | '.join(cells)} |"
    yield from ("", "*Per cent that were solved, and the standard error.*")


def _harness(facts: Facts) -> Iterator[str]:
    scores = () if facts.results is None else facts.results.harness
    if not scores:
        return
    yield from ("", "## Tasks of lm-evaluation-harness")
    for task in dict.fromkeys(score.task for score in scores):
        of_this = [score for score in scores if score.task == task]
        metrics = list(dict.fromkeys(score.metric for score in of_this))
        yield from ("", f"| {task} | {' | '.join(metrics)} |", f"|---|{'---:|' * len(metrics)}")
        for model in dict.fromkeys(score.model for score in of_this):
            values = {score.metric: score.value for score in of_this if score.model is model}
            cells = (_number(values.get(metric), 4) for metric in metrics)
            yield f"| {model.label} | {' | '.join(cells)} |"
        first = of_this[0].setting
        yield from ("", f"*Over {first.tasks} {'document' if first.tasks == 1 else 'documents'}.*")


def _speed(facts: Facts) -> Iterator[str]:
    speeds = () if facts.results is None else facts.results.speeds
    if not speeds:
        return
    kinds = list(dict.fromkeys(kind for speed in speeds for kind in speed.speeds))
    yield from ("", "## Speed", "", f"| file | {' | '.join(kinds)} |")
    yield f"|---|{'---:|' * len(kinds)}"
    for speed in speeds:
        cells = (_number(speed.speeds.get(kind), 1) for kind in kinds)
        yield f"| {speed.model.label} | {' | '.join(cells)} |"
    where = speeds[0].setting.machine
    yield from ("", f"*Tokens a second: pp reads a prompt, tg writes. {where}.*")


def _memory(facts: Facts) -> Iterator[str]:
    contexts = sorted({length for file in facts.files for length in file.memory})
    if not contexts:
        return
    yield from ("", "## Which file fits your machine", "")
    yield f"| file | {' | '.join(f'{length // 1024}k context' for length in contexts)} |"
    yield f"|---|{'---:|' * len(contexts)}"
    for file in facts.files:
        cells = (_size(file.memory[length]) if length in file.memory else "" for length in contexts)
        yield f"| {file.tier} | {' | '.join(cells)} |"
    yield from (
        "",
        "*Memory for weights, F16 cache and buffers together, on the GPU or in the host; leave "
        "some for the driver and the system. With `--cpu-moe`, experts stay in the host's memory.*",
    )


def _caches(facts: Facts) -> Iterator[str]:
    if not facts.caches:
        return
    contexts, kinds = list(facts.caches[0].bytes), list(facts.caches[0].speed)
    head = [*(f"{length // 1024}k context" for length in contexts), "KL mean", *kinds]
    yield from ("", "## A smaller KV cache", "")
    yield f"| keys, values | {' | '.join(head)} |"
    yield f"|---|{'---:|' * len(head)}"
    for cache in facts.caches:
        cells = [
            *(_size(cache.bytes[length]) for length in contexts),
            f"{cache.kl:.5f} ± {cache.error:.5f}",
            *(f"{cache.speed[kind]:.1f}" for kind in kinds),
        ]
        yield f"| {cache.keys}, {cache.values} | {' | '.join(cells)} |"
    name, best = facts.files[0].tier, smallest_without_loss(facts.caches)
    types = f"`-ctk {best.keys.lower()} -ctv {best.values.lower()}`"
    yield ""
    yield (
        f"*Of {name}: memory of the cache, and KL divergence from the original with it. The "
        f"smallest that cannot be told from F16 is {types}.*"
    )


def smallest_without_loss(caches: Sequence[Cache]) -> Cache:
    """The smallest whose divergence is within two standard errors of the first's or below it."""
    first = caches[0]
    length = max(first.bytes)
    good = [cache for cache in caches if cache.kl <= first.kl + 2 * first.error]
    return min(good, key=lambda cache: cache.bytes[length])


def _plots(facts: Facts) -> Iterator[str]:
    for path, what in facts.plots:
        yield from ("", f"![{what}]({quote(path)})")


def _how(facts: Facts) -> Iterator[str]:
    yield from ("", "## How they were made", "")
    if facts.calibration:
        yield f"- Importance matrix: {facts.calibration}."
    yield f"- {', '.join(f'{name} {version}' for name, version in facts.versions.items())}."
    yield "- Checksums are in `SHA256SUMS`: `sha256sum -c SHA256SUMS`."


def _use(facts: Facts) -> Iterator[str]:
    file, short = facts.files[0], short_name(facts)
    yield from ("", "## Run them", "", "```")
    yield "# llama.cpp"
    if facts.repository:
        names = " ".join(path.name for path in file.paths)
        yield f"hf download {facts.repository} {names} --local-dir ."
    yield f"llama-server -m {file.name} -c 8192"
    yield from ("", "# Ollama, with the Modelfile beside the files")
    yield f"ollama create {short} -f Modelfile && ollama run {short}"
    yield from ("", "# LocalAI, with the gallery beside the files")
    yield f"local-ai run {short}-apex-{file.tier}"
    if facts.repository:
        yield from ("", "# LM Studio", f"lms get {facts.repository}")
    yield "```"


def short_name(facts: Facts) -> str:
    """The title as a name for commands."""
    return "-".join(facts.title.lower().split())


def _number(number: Number | None, digits: int) -> str:
    if number is None:
        return ""
    error = "" if math.isnan(number.error) else f" ± {number.error:.{digits}f}"
    return f"{number.value:.{digits}f}{error}"


def _size(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB else f"{count / 2**20:.1f} MiB"
