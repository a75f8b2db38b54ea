"""Messages by a model's own chat template, as transformers renders it."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from apex.errors import UsageError
from apex.sources import ModelFile

__all__ = ["chat_template", "render_chat"]

_HINT = "leave out --harness-chat"


def chat_template(file: ModelFile) -> str:
    """The model's chat template. Raises UsageError where it has none."""
    template = file.metadata.get("tokenizer.chat_template")
    if not template:
        raise UsageError(f"{file.path} has no chat template.", _HINT)
    return str(template)


def render_chat(
    file: ModelFile,
    messages: Sequence[Mapping[str, str]],
    tokens: Mapping[str, str],
    *,
    asks: bool,
) -> str:
    """The text of some messages. Raises UsageError where there is no template, or it refuses them.

    tokens: texts of special tokens by the names that templates have for them. asks: end with what
    asks for an answer.
    """
    from jinja2 import TemplateError

    try:
        text = (
            _environment()
            .from_string(chat_template(file))
            .render(messages=messages, add_generation_prompt=asks, **tokens)
        )
    except TemplateError as error:
        raise UsageError(
            f"The chat template of {file.path} cannot be used: {error}.", _HINT
        ) from None
    return str(text)


def _environment() -> Any:
    """What templates may use, as transformers has it."""
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **how: json.dumps(
        value, ensure_ascii=False, **how
    )
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda how: datetime.datetime.now().strftime(how)
    return environment
