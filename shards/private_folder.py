"""A temporary folder that nobody but this user can write, where there is no home to write to, as in many containers."""

import stat
import tempfile
from pathlib import Path


def private_folder(name: str) -> Path:
    """The same folder in each process of this user; a new one if somebody else has taken its name."""
    own = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    user = own.stat().st_uid
    shared = own.with_name(f"{name}-{user}")
    try:
        shared.mkdir(mode=0o700, exist_ok=True)
        status = shared.lstat()
    except OSError:
        return own
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != user or status.st_mode & 0o022:
        return own
    own.rmdir()
    return shared
