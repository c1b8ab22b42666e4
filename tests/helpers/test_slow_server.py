"""The storage of the tests: faults in the body of a download, latency, bandwidth, ranges and counts."""

import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException, IncompleteRead
from urllib.error import HTTPError
from urllib.parse import urlsplit

import pytest
from s3fs import S3FileSystem

from helpers.slow_server import SlowServer
from smile_pipe.shards.storage import StoragePath

CONTENT = bytes(range(251)) * 4000


@pytest.fixture
def server(s3_server: str) -> Iterator[SlowServer]:
    with SlowServer(s3_server) as server:
        yield server


@pytest.fixture
def path(s3_url: str, server: SlowServer) -> str:
    """Path of a shard of a megabyte on the server; a table is two folders above it."""
    for name in ("shards/000000.tar", "index.parquet"):
        file = StoragePath(s3_url) / name
        file.fs.pipe_file(file.path, CONTENT, ACL="public-read")
    return f"/{urlsplit(s3_url).netloc}/shards/000000.tar"


def get(server: SlowServer, path: str, wanted: str = "", timeout: float = 10) -> bytes:
    headers = {"Range": wanted} if wanted else {}
    with urllib.request.urlopen(urllib.request.Request(server.address + path, headers=headers), timeout=timeout) as got:
        return got.read()


def table_of(path: str) -> str:
    return path.replace("shards/000000.tar", "index.parquet")


class TestSlowness:
    def test_whole_objects_and_ranges_are_right_and_counted(self, server, path):
        for _ in range(2):
            assert get(server, path) == CONTENT
            assert get(server, path, "bytes=0-9") == CONTENT[:10]
            assert get(server, path, "bytes=1000-700999") == CONTENT[1000:701_000]
            assert get(server, path, f"bytes=1000-{len(CONTENT) + 500}") == get(server, path, "bytes=1000-")
        assert get(server, table_of(path)) == CONTENT
        with pytest.raises(HTTPError, match="416"):
            get(server, path, f"bytes={len(CONTENT)}-")
        with pytest.raises(HTTPError, match="404"):
            get(server, path + "x")
        assert server.num_requests == 13
        assert server.num_bytes >= 7 * len(CONTENT) + 2 * (10 + 700_000) - 4 * 1000

    def test_replaced_object_is_read_again(self, server, path):
        get(server, path)
        storage = S3FileSystem(endpoint_url=server.address, skip_instance_cache=True)
        storage.pipe_file(path, b"other", ACL="public-read")
        assert get(server, path) == b"other"

    def test_parallel_requests_wait_in_parallel(self, server, path):
        get(server, path)
        server.latency = 0.3
        start = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: get(server, path, "bytes=0-9"), range(8)))
        assert 0.3 <= time.monotonic() - start < 8 * 0.3 / 2

    @pytest.mark.parametrize("num_connections", [1, 4])
    def test_connections_share_the_bandwidth(self, server, path, num_connections):
        get(server, path)
        server.bandwidth = 8e6
        start = time.monotonic()
        with ThreadPoolExecutor(num_connections) as pool:
            list(pool.map(lambda _: get(server, path), range(4)))
        assert 4 * len(CONTENT) / 8e6 - 0.1 <= time.monotonic() - start < 4 * len(CONTENT) / 8e6 + 1

    def test_one_connection_serves_many_requests(self, server, path):
        connection = HTTPConnection(urlsplit(server.address).netloc)
        connection.request("GET", path)
        assert connection.getresponse().read() == CONTENT
        used = connection.sock
        connection.request("GET", path)
        assert connection.getresponse().read() == CONTENT
        assert used is not None and connection.sock is used


class TestFaultsInTheBody:
    def test_only_every_nth_download_of_a_shard_fails(self, server, path):
        server.fault, server.every = "corrupt body", 3
        read = []
        for _ in range(6):
            assert get(server, table_of(path)) == get(server, table_of(path)) == CONTENT
            read.append(get(server, path) == CONTENT)
        assert read == [True, True, False] * 2 and server.num_faults == 2

    def test_corrupt_body_has_one_changed_byte(self, server, path):
        server.fault, server.every = "corrupt body", 1
        for wanted, expected in (("", CONTENT), ("bytes=100-199", CONTENT[100:200])):
            got = get(server, path, wanted)
            assert len(got) == len(expected)
            assert [n for n, (a, b) in enumerate(zip(got, expected, strict=True)) if a != b] == [len(expected) // 2]

    def test_truncated_body_announces_its_own_length(self, server, path):
        server.fault, server.every = "truncated body", 1
        assert get(server, path) == CONTENT[: len(CONTENT) // 2]

    def test_short_body_ends_early(self, server, path):
        server.fault, server.every = "short body", 1
        # `urllib` would ask the server to close the connection.
        connection = HTTPConnection(urlsplit(server.address).netloc, timeout=5)
        connection.request("GET", path)
        with pytest.raises(IncompleteRead) as caught:
            connection.getresponse().read()
        assert caught.value.partial == CONTENT[: len(CONTENT) // 2]

    def test_reset_in_the_body_closes_the_connection(self, server, path):
        server.fault, server.every = "reset in the body", 1
        with pytest.raises((ConnectionError, HTTPException)):
            get(server, path)

    def test_stall_in_the_body_pauses(self, server, path):
        server.fault, server.every, server.stall_seconds = "stall in the body", 1, 0.5
        start = time.monotonic()
        assert get(server, path) == CONTENT and time.monotonic() - start >= 0.5
        server.stall_seconds = 30
        with pytest.raises(TimeoutError):
            get(server, path, timeout=0.3)
