"""The one exception that means: the user asked for something that cannot be done as asked."""


class UsageError(ValueError):
    """A wrong argument, path or combination; its message is one line that says what is wrong and what to do.

    The command line turns it into that line and exit code 2. A stage raises it before it has written anything.
    """
