"""Starts the page: Streamlit runs `page.py` in a process of its own, and ends with this one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from smile_pipe.pipeline.app.config import AppConfig
from smile_pipe.pipeline.runs.run_directory import open_run
from smile_pipe.shards.errors import UsageError

PAGE = Path(__file__).with_name("page.py")


def run(config: AppConfig) -> int:
    """Serve the page until it is stopped; returns the exit code of the server.

    Raises:
        UsageError: no finished run, or Streamlit is not installed.
    """
    open_run(config.run)
    if missing := [name for name in ("streamlit", "plotly") if importlib.util.find_spec(name) is None]:
        raise UsageError(f"{' and '.join(missing)} is not installed; `pip install 'smile-pipe[app]'` brings the page")
    return subprocess.run(command(config), env={**os.environ, **environment(config)}, check=False).returncode


def command(config: AppConfig) -> list[str]:
    """What starts the server; the page finds its options behind `--`."""
    return [sys.executable, "-m", "streamlit", "run", str(PAGE), "--", config.model_dump_json()]


def environment(config: AppConfig) -> dict[str, str]:
    """Options of Streamlit itself: no statistics for its makers, and no traceback for visitors."""
    return {
        "STREAMLIT_SERVER_ADDRESS": config.host,
        "STREAMLIT_SERVER_PORT": str(config.port),
        "STREAMLIT_SERVER_HEADLESS": str(not config.open_browser).lower(),
        "STREAMLIT_SERVER_MAX_UPLOAD_SIZE": str(config.max_upload_mb),
        "STREAMLIT_SERVER_FILE_WATCHER_TYPE": "none",
        "STREAMLIT_BROWSER_GATHER_USAGE_STATS": "false",
        "STREAMLIT_CLIENT_SHOW_ERROR_DETAILS": "none",
        "STREAMLIT_CLIENT_TOOLBAR_MODE": "minimal",
    }
