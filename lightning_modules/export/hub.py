"""Exported folders that are fetched from the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_modules.core.errors import ModelError


def hub_folder(called: str, repository: str, **how: Any) -> Path:
    """Where the files of a repository were put.

    Args:
        called: What a sentence calls it.
        repository: Its id, `owner/name`.
        how: As `snapshot_download` of huggingface_hub takes it.

    Raises:
        ModelError: if it is not found, or the hub does not answer.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(repository, **how))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(
            f"{called} is no folder here and was not found on the hub ({type(error).__name__}); check the name, the "
            "network and `hf auth login` for a private repository."
        ) from error
