"""Reading back the `config.json` that a stage wrote, to resume it."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from smile_pipe.shards.errors import UsageError
from smile_pipe.shards.storage import StoragePath


class LenientModel(BaseModel):
    """A model that keeps fields it does not know."""

    # More may stand there, and is kept as it is.
    model_config = ConfigDict(strict=True, extra="allow")


class StageConfigRecord(LenientModel):
    """The part of a stage's `config.json` on which going on with it depends."""

    fingerprint: str


def load_stage_config(path: StoragePath, kind: type[StageConfigRecord], stage: str) -> dict[str, Any]:
    """The `config.json` of a stage's output; nothing where there is none.

    Raises:
        UsageError: it is damaged, or of something else: models of other programs have a file of that name, too.
    """
    if not path.exists():
        return {}
    try:
        return kind.model_validate_json(path.read_bytes()).model_dump(mode="json", exclude_unset=True)
    except (ValidationError, IsADirectoryError):
        raise foreign_directory_error(path.parent, stage) from None


def foreign_directory_error(out: StoragePath, stage: str) -> UsageError:
    """The error for an output directory that holds files of another kind."""
    return UsageError(f"holds files that are not of a {stage}; name a new or empty directory", field="out", value=out)
