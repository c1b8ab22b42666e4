"""The errors that users see: `UsageError` for wrong input, `StorageError` for a storage that fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class UsageError(ValueError):
    """An invalid argument, path or combination of them. A stage raises it before it writes anything.

    The message is one line: what is wrong, and what to do. It names other options by their config fields in backticks,
    `num_workers`, or with a value `split=all`. The command line turns these into flags.

    Attributes:
        message: The line, without field and value.
        field: The invalid config field; "" if it is not a single field.
        value: The invalid value; None where the message does not need it.
    """

    def __init__(self, message: str, *, field: str = "", value: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field
        self.value = value

    def __str__(self) -> str:
        if not self.field:
            return self.message
        return f"{self.field}: {self.message}" if self.value is None else f"{self.field} {self.value}: {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        # Ray sends errors between processes by pickle, which by default passes positional arguments only.
        return _rebuild, (type(self), self.message, self.field, self.value)


def _rebuild(kind: type[UsageError], message: str, field: str, value: Any) -> UsageError:
    return kind(message, field=field, value=value)


class StorageError(ConnectionError):
    """The storage failed. The error carries no information about the requested file; a job ends with it."""


@contextmanager
def storage_errors(path: object) -> Iterator[None]:
    """Turn a failure of the storage into a `StorageError`; storages raise arbitrary exceptions, `OSError` or others.

    Raises:
        FileNotFoundError, MemoryError: Unchanged.
        StorageError: In place of any other exception.
    """
    try:
        yield
    except (FileNotFoundError, MemoryError, StorageError):
        raise
    except Exception as error:
        reason = describe_error(error)
        raise StorageError(f"{path}: the storage failed ({reason}); run the same command to go on") from error


def describe_error(error: BaseException) -> str:
    """The message of an error in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
