"""Models from the Hugging Face Hub, and its client's errors in one line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from srvae_pyro.errors import UserError


def is_cached_copy(folder: Path) -> bool:
    """Whether a folder is a copy in the Hub's cache, not to be written to."""
    snapshots = folder.resolve().parent  # models--OWNER--NAME/snapshots/REVISION
    return snapshots.name == "snapshots" and snapshots.parent.name.startswith("models--")


def refuse_address(name: str) -> None:
    """Refuse the address of a model instead of its Hub id."""
    address = re.match(r"(?:https?:/{1,2})?(?:www\.)?(?:huggingface\.co|hf\.co)/+(.*)", name)
    if address:
        name_in_it = "/".join(address[1].split("/")[:2])
        raise UserError(f"{name} is an address: use the id in it, {name_in_it}")


def download(name: str, files: Sequence[str], **options: Any) -> Path:
    """The folder of the model ``owner/name`` in the Hub's cache, downloaded if it is not there.

    ``options`` are those of ``huggingface_hub.snapshot_download``.
    """
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(files), **options))
    except MemoryError:
        raise
    except Exception as error:  # proxies and servers make the client raise almost anything
        raise UserError(
            f"{name} is neither a folder here nor available from the Hub: {_why(error)}"
        ) from None
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise UserError(
            f"{name} from the Hub has no {missing[0]}: it is not a model of this program, or its "
            "cached copy is incomplete and the Hub does not answer"
        )
    return folder


def _why(error: Exception) -> str:
    """The reason of an error of the Hub's client, with advice."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "socks" in text.lower():
        return "a SOCKS proxy is set: pip install socksio pysocks, or set an http or socks5 one"
    if isinstance(error, GatedRepoError):
        return "it is gated; ask for access on its page, then log in with: hf auth login"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such model, or it is private; if so, log in with: hf auth login"
    if isinstance(error, RevisionNotFoundError):
        return "it has no such revision"
    if isinstance(error, HFValidationError):
        return "it is not a valid id: use owner/name"
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled | ConnectionError):
        return "the Hub does not answer, and the cache has no complete copy"
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        advice = "log in with: hf auth login" if status in (401, 403) else "try again later"
        return f"it answers {status}: {advice}"
    return text[:200]
