"""An object store at a distance: a local S3 server (moto) behind a latency and a bandwidth that connections share.

Shards that were read once are served from memory, so the S3 server behind limits nothing.
"""

import http.client
import logging
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from multiprocessing.connection import Connection

from helpers.faulty_server import Answer, FaultyServer, is_download

# Large writes keep the CPU time of the server low.
CHUNK_BYTES = 1 << 18
# Time in which the link may catch up after it was idle, as buffers on the way allow.
BURST_SECONDS = 0.02
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class SlowServer(FaultyServer):
    """A proxy that answers as slowly as a distant object store, and counts requests and sent bytes.

    Attributes:
        latency: Seconds before the first byte of each answer; parallel requests wait in parallel.
        bandwidth: Bytes per second of all connections together; 0 for no limit.
        num_bytes: Bytes of sent bodies.
    """

    latency = 0.0
    bandwidth = 0.0

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.num_bytes = 0
        self._shards: dict[str, Answer] = {}
        self._link, self._free_at = threading.Lock(), 0.0

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Forward a request after the latency, or answer it from memory."""
        time.sleep(self.latency)
        super().handle(request)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        if not is_download(request):
            if request.command not in ("GET", "HEAD"):
                self._shards.clear()
            return super()._forward(request, body)
        name, wanted = request.path.partition("?")[0], request.headers.get("Range")
        if name not in self._shards:
            del request.headers["Range"]
            answer = super()._forward(request, body)
            if answer[0] != http.client.OK:
                return answer
            self._shards[name] = answer
        status, headers, content = self._shards[name]
        if wanted is None:
            return status, headers, content
        first, last = _bounds(wanted, len(content))
        if first > last:
            return http.client.REQUESTED_RANGE_NOT_SATISFIABLE, [], b""
        # A checksum is that of the whole object.
        headers = [header for header in headers if not header[0].lower().startswith("x-amz-checksum")]
        headers.append(("Content-Range", f"bytes {first}-{last}/{len(content)}"))
        return http.client.PARTIAL_CONTENT, headers, memoryview(content)[first : last + 1]

    def _send(self, request: BaseHTTPRequestHandler, content: bytes | memoryview) -> None:
        view = memoryview(content)
        for start in range(0, len(view), CHUNK_BYTES):
            chunk = view[start : start + CHUNK_BYTES]
            self._wait_for_link(len(chunk))
            super()._send(request, chunk)

    def _wait_for_link(self, size: int) -> None:
        with self._link:
            self.num_bytes += size
            if not self.bandwidth:
                return
            now = time.monotonic()
            self._free_at = max(self._free_at, now - BURST_SECONDS) + size / self.bandwidth
            seconds = self._free_at - now
        if seconds > 0:
            time.sleep(seconds)


def _bounds(text: str, size: int) -> tuple[int, int]:
    """First and last byte of a range request; only the form that readers of shards use."""
    match = _RANGE.fullmatch(text)
    assert match, text
    return int(match[1]), min(int(match[2] or size), size - 1)


@dataclass(frozen=True)
class Counts:
    """Traffic of a server, and its CPU time in seconds."""

    num_requests: int
    num_bytes: int
    cpu_seconds: float

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(
            self.num_requests - other.num_requests,
            self.num_bytes - other.num_bytes,
            self.cpu_seconds - other.cpu_seconds,
        )


class SlowStore:
    """An S3 server in a process of its own. Readers in this process then have their interpreter to themselves.

    Attributes:
        address: The server with latency and bandwidth.
        fast_address: The same objects without them.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.address, self.fast_address = connection.recv()

    def limit(self, latency: float, bandwidth: float) -> None:
        """Set the latency in seconds and the bandwidth in bytes per second; see `SlowServer`."""
        self._connection.send((latency, bandwidth))
        self._connection.recv()

    def counts(self) -> Counts:
        """The counts since the start."""
        self._connection.send(None)
        return self._connection.recv()


@contextmanager
def slow_store() -> Iterator[SlowStore]:
    """An S3 server without latency at first. The environment makes S3 clients that start later use it."""
    context = multiprocessing.get_context("spawn")
    connection, other = context.Pipe()
    process = context.Process(target=_serve, args=(other,), daemon=True)
    process.start()
    try:
        store = SlowStore(connection)
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "access-of-the-tests",
            "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": store.address,
        }
        yield store
    finally:
        process.terminate()
        process.join()


def _serve(connection: Connection) -> None:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    address = "http://{}:{}".format(*moto.get_host_and_port())
    with SlowServer(address) as server:
        connection.send((server.address, address))
        while True:
            limits = connection.recv()
            if limits is not None:
                server.latency, server.bandwidth = limits
            connection.send(Counts(server.num_requests, server.num_bytes, time.process_time()))
