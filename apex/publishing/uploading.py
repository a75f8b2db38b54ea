"""The last step: to the Hub, by huggingface_hub, and only when told."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from apex.errors import OutputError, UsageError
from apex.publishing.planned import Planned
from apex.publishing.step import Advance, Outcome, Step, step
from apex.publishing.texts import read_checksums

__all__ = ["upload_step", "uploads"]

_BESIDE = ("README.md", "gallery.yaml", "Modelfile", "SHA256SUMS", "report")


def uploads(planned: Planned) -> list[Path]:
    """What goes to the Hub, as far as it is there: files, and the report's folder."""
    matrix = [] if planned.matrix is None else [planned.matrix]
    return [*planned.all_shards, *matrix, *(planned.folder / name for name in _BESIDE)]


def upload_step(planned: Planned, before: Sequence[Step]) -> Step:
    """Make the repository, private unless told otherwise, send all, and compare the checksums.

    What the Hub has already is not sent again, so a run that was stopped goes on.
    """
    asked = planned.asked
    repository = asked.card.repository
    if repository is None:
        raise UsageError("The repository to upload to is missing.", "give --repo OWNER/NAME")
    hub()  # before anything is made

    def run(advance: Advance) -> Outcome:
        advance("uploading", 0, 1, repository)
        with _failing(repository):
            api = hub().HfApi()
            api.create_repo(repository, private=not asked.public, exist_ok=True)
            names = [path.relative_to(planned.folder).as_posix() for path in uploads(planned)]
            api.upload_folder(
                repo_id=repository,
                folder_path=planned.folder,
                allow_patterns=[*names, "report/*"],
                commit_message=f"{planned.name}, quantized by apex",
            )
            _compare(planned, api, repository)
        advance("uploading", 1, 1, repository)
        return Outcome([], {"repository": repository})

    needs: dict[str, str | None] = {
        "name of the repository": repository,
        "visibility": "public" if asked.public else "private",
    }
    needs |= {each.name: each.key for each in before if each.stage in ("checksums", "card")}
    return step("upload", needs, [], run)


def hub() -> Any:
    """The library. Raises UsageError without it."""
    # apex shows progress in its own form.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        library = import_module("huggingface_hub")
        import_module("huggingface_hub.errors")
    except ImportError:
        raise UsageError(
            "Uploading needs huggingface_hub.", "pip install 'apex-quant[hf]' brings it"
        ) from None
    return library


def _compare(planned: Planned, api: Any, repository: str) -> None:
    """What lies on the Hub is what lies here."""
    ours = read_checksums(planned.folder / "SHA256SUMS")
    found = api.get_paths_info(repository, list(ours))
    theirs = {info.path: info.lfs.sha256 for info in found if info.lfs is not None}
    for name, digest in ours.items():
        if theirs.get(name) != digest:
            raise OutputError(
                f"{repository} does not hold {name} as it is here.",
                "run the same command again; what arrived is not sent again",
            )


@contextmanager
def _failing(repository: str) -> Iterator[None]:
    """The library's errors as one sentence."""
    errors = hub().errors
    try:
        yield
    except errors.LocalTokenNotFoundError:
        raise OutputError(
            "There is no token for the Hub.", "hf auth login, or set HF_TOKEN"
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        hints = {
            401: "the token is not valid: hf auth login, or set HF_TOKEN",
            403: "the token may not write there: make one that may",
            429: "the Hub asks to wait: run the same command again later",
        }
        raise OutputError(
            f"{repository} was not uploaded: the Hub answers {status}.",
            hints.get(status, "run the same command again; what arrived is not sent again"),
        ) from None
    # What the library sends requests with has errors of its own, which this one's stand on.
    except (*errors.HfHubHTTPError.__bases__, RuntimeError) as error:
        reason = str(error).strip().rstrip(".")
        raise OutputError(
            f"{repository} was not uploaded: {reason}.",
            "check the network, and run the same command again",
        ) from None
