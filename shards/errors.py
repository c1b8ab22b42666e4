"""The error for something that the user asked for and that cannot be done as asked."""

from typing import Any


class UsageError(ValueError):
    """A wrong argument, path or combination of them. A stage raises it before it writes anything.

    The message is one line: what is wrong, and what to do. It names options as the fields of the configs, in backticks:
    `num_workers`, or with a value `split=all`. The command line turns these into its flags.

    Attributes:
        message: the line, without field and value.
        field: the field of the config that is wrong, "" where no single one is.
        value: what the field was given, None where the message does not need it.
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
