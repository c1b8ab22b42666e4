"""A folder for compiled kernels where neither the installation nor HOME can be written, as in many containers.

Numba stores compiled functions next to their source or in the user's cache folder, and cannot load a module that has
such functions if it can write to neither. Imported before any of these modules.
"""

import os
import stat
import tempfile
from pathlib import Path


def use_writable_cache() -> None:
    """Set `NUMBA_CACHE_DIR` to a temporary folder, unless it is set or Numba's own choices can be written."""
    if "NUMBA_CACHE_DIR" in os.environ or can_write(Path(__file__).parent) or can_write(_user_cache()):
        return
    os.environ["NUMBA_CACHE_DIR"] = str(_private_folder())


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))


def can_write(folder: Path) -> bool:
    """Whether the folder can be written, or created."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return os.access(existing, os.W_OK | os.X_OK)


def _private_folder() -> Path:
    """A folder that nobody else can write, since code is loaded from it; the same in each process of this user."""
    own = Path(tempfile.mkdtemp(prefix="smile-pipe-kernels-"))
    user = own.stat().st_uid
    shared = own.with_name(f"smile-pipe-kernels-{user}")
    try:
        shared.mkdir(mode=0o700, exist_ok=True)
        status = shared.lstat()
    except OSError:
        return own
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != user or status.st_mode & 0o022:
        return own
    own.rmdir()
    return shared
