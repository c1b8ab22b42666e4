"""The environment of threads is set before PyTorch is imported, and a value of the user is kept."""

import os
import subprocess
import sys

import pytest

PRINT = "import os, sys, smile_pipe; assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"


@pytest.mark.parametrize(("given", "expected"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_importing_the_package_lets_threads_sleep_unless_the_user_decided(given, expected):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
    done = subprocess.run([sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
