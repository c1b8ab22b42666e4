"""Shards that all tests of the exports read."""

from pathlib import Path

import pytest

from helpers import small_runs


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    return small_runs.write_shards(tmp_path_factory.mktemp("scans"))
