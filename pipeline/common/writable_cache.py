"""A folder for compiled kernels where neither the installation nor HOME can be written, as in many containers.

Numba stores compiled functions next to their source or in the user's cache folder, and cannot load a module that has
such functions if it can write to neither. Imported before any of these modules.
"""

import os
from pathlib import Path

from smile_pipe.shards.private_folder import private_folder


def use_writable_cache() -> None:
    """Set `NUMBA_CACHE_DIR` to a temporary folder, unless it is set or Numba's own choices can be written."""
    if "NUMBA_CACHE_DIR" in os.environ or can_write(Path(__file__).parent) or can_write(_user_cache()):
        return
    # Nobody else can write to it, since code is loaded from it.
    os.environ["NUMBA_CACHE_DIR"] = str(private_folder("smile-pipe-kernels"))


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))


def can_write(folder: Path) -> bool:
    """Whether the folder can be written, or created."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return os.access(existing, os.W_OK | os.X_OK)
