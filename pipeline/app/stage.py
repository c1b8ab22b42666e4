"""The app stage: start Streamlit on `page.py` in a child process that ends with this one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from smile_pipe.pipeline.app.config import AppConfig
from smile_pipe.pipeline.landmarks.axes import resolve_axes
from smile_pipe.pipeline.runs.run_directory import open_run
from smile_pipe.shards.errors import UsageError

PAGE = Path(__file__).with_name("page.py")


def run(config: AppConfig) -> int:
    """Serve the page until it is stopped.

    Returns:
        The exit code of the server.

    Raises:
        UsageError: the run is not finished, Streamlit or Plotly is not installed, or options exclude each other.
    """
    open_run(config.run)
    resolve_axes(config.up, config.axes)
    if missing := [name for name in ("streamlit", "plotly") if importlib.util.find_spec(name) is None]:
        raise UsageError(f"{' and '.join(missing)} is not installed; run `pip install 'smile-pipe[app]'`")
    return subprocess.run(
        server_command(config), env={**os.environ, **streamlit_environment(config)}, check=False
    ).returncode


def server_command(config: AppConfig) -> list[str]:
    """Return the command that starts the server; the page reads its options from the argument after `--`."""
    return [sys.executable, "-m", "streamlit", "run", str(PAGE), "--", config.model_dump_json()]


def streamlit_environment(config: AppConfig) -> dict[str, str]:
    """Return the options of Streamlit: no usage statistics, and no tracebacks for visitors."""
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
