"""Installation and HOME that cannot be written, as in containers."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from smile_pipe.pipeline.common import writable_cache

# No folder can be created below a device, not even by root.
NO_HOME = "/dev/null/home"


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", NO_HOME)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def read_only_package(monkeypatch):
    can_write = writable_cache.can_write
    package = Path(writable_cache.__file__).parent
    monkeypatch.setattr(writable_cache, "can_write", lambda folder: folder != package and can_write(folder))


def chosen() -> str | None:
    writable_cache.use_writable_cache()
    return os.environ.get("NUMBA_CACHE_DIR")


def test_writable_package_needs_no_other_folder():
    assert chosen() is None


@pytest.mark.usefixtures("read_only_package")
class TestReadOnlyPackage:
    @pytest.mark.parametrize("name", ["HOME", "XDG_CACHE_HOME"])
    def test_writable_cache_of_the_user_needs_no_other_folder(self, monkeypatch, tmp_path, name):
        monkeypatch.setenv(name, str(tmp_path))
        assert chosen() is None

    def test_folder_of_the_user_is_kept(self, monkeypatch):
        monkeypatch.setenv("NUMBA_CACHE_DIR", "/somewhere")
        assert chosen() == "/somewhere"

    def test_temporary_folder_is_private_and_the_same_in_each_process(self, tmp_path, monkeypatch):
        folder = Path(chosen() or "")
        assert folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
        monkeypatch.delenv("NUMBA_CACHE_DIR")
        assert chosen() == str(folder)
        assert list(tmp_path.iterdir()) == [folder]

    @pytest.mark.parametrize("trap", ["open", "link"])
    def test_folder_that_others_can_write_is_not_used(self, tmp_path, trap):
        # Numba's cache is code.
        planted = tmp_path / f"smile-pipe-kernels-{os.getuid()}"
        if trap == "open":
            planted.mkdir()
            planted.chmod(0o777)
        else:
            (tmp_path / "elsewhere").mkdir(mode=0o700)
            planted.symlink_to(tmp_path / "elsewhere")
        folder = Path(chosen() or "")
        assert folder != planted and folder.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700


def test_import_sets_the_folder_before_numba_is_imported():
    code = "import os, sys, smile_pipe; print('numba' in sys.modules, os.environ.get('NUMBA_CACHE_DIR'))"
    patch = "import os; os.access = lambda *a, **k: False; " + code
    done = subprocess.run([sys.executable, "-c", patch], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "False" and "smile-pipe-kernels" in done.stdout


@pytest.mark.ray
@pytest.mark.slow
def test_ray_starts_without_a_home(monkeypatch):
    # Ray sets it in a process in which it was started.
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    code = (
        "import os, ray\n"
        "from smile_pipe.pipeline.common.ray_session import ray_session\n"
        "with ray_session('local'):\n"
        "    print(ray.get(ray.remote(lambda: 2 + 3).remote()))\n"
        "print('RAY_AUTH_TOKEN_PATH' in os.environ)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["5", "False"], done.stderr
