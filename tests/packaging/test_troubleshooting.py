"""The page of troubles: the messages that it explains exist in the code, and so do the options that it names."""

import re
from pathlib import Path

import pytest

from smile_pipe.cli.main import COMMANDS, load_command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "pipeline" / "TROUBLESHOOTING.md").read_text()
MESSAGES = [match for match in re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)]


@pytest.fixture(scope="module")
def sources() -> str:
    """All strings of the code in one line: messages are divided over several."""
    texts = [
        path.read_text() for folder in ("cli", "model", "pipeline", "shards") for path in (ROOT / folder).rglob("*.py")
    ]
    return re.sub(r'"\s*\n\s*f?"', "", "\n".join(texts))


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_exist(sources, message):
    assert message in sources


def test_options_exist():
    known = {option for name in COMMANDS for p in load_command(name).params for option in p.opts}
    # Of other programs.
    known |= {"--object-store-memory", "--shm-size", "--help"}
    found = set(re.findall(r"--[a-z][a-z-]+", PAGE))
    assert len(MESSAGES) >= 14 and len(found) > 15 and found <= known
