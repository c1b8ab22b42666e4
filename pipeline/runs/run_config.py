"""Reading of the `config.json` of a stage, to resume the stage."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath


class LenientModel(BaseModel):
    """A model that accepts unknown fields and keeps them unchanged."""

    model_config = ConfigDict(strict=True, extra="allow")


class StageConfigRecord(LenientModel):
    """The part of a stage's `config.json` that decides whether the stage can be resumed."""

    fingerprint: str


def load_stage_config(path: StoragePath, kind: type[StageConfigRecord], stage: str) -> dict[str, Any]:
    """Read the `config.json` of a stage.

    Args:
        path: The file.
        kind: Model of the expected content.
        stage: Name of the stage for the error message.

    Returns:
        The content; empty if there is no such file.

    Raises:
        UsageError: The file is damaged, or belongs to something else: other programs write files of this name as well.
    """
    if not path.exists():
        return {}
    try:
        return kind.model_validate_json(path.read_bytes()).model_dump(mode="json", exclude_unset=True)
    except (ValidationError, IsADirectoryError):
        raise foreign_directory_error(path.parent, stage) from None


def foreign_directory_error(out: StoragePath, stage: str) -> UsageError:
    """The error for an output directory that holds other files than those of `stage`."""
    return UsageError(f"holds files that are not of a {stage}; name a new or empty directory", field="out", value=out)
