"""The environment of threads is set before PyTorch is imported, and a choice of the user is kept."""

import os
import subprocess
import sys

import pytest

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
PRINT = f"import os, sys, smile_pipe; assert 'torch' not in sys.modules; print([os.environ.get(n) for n in {NAMES}])"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ["1000", None]),
        ({"OMP_WAIT_POLICY": "active"}, [None, "active"]),
        ({"GOMP_SPINCOUNT": "7"}, ["7", None]),
    ],
)
def test_importing_the_package_lets_threads_sleep_unless_the_user_decided(given, expected):
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | given
    done = subprocess.run([sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(expected)
