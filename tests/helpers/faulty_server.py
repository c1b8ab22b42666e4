"""Storage faults: an HTTP proxy that forwards requests and injects faults at a fixed rate, and calls that fail."""

import http.client
import socket
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import urlsplit

Fault = Literal[
    "500",
    "503",
    "reset",
    "reset after it was done",
    # Of downloads of shards, after the headers and half of the body:
    "reset in the body",
    "stall in the body",  # nothing for `stall_seconds`, then the rest
    "short body",  # the connection is closed before the announced length
    # From the first byte on:
    "truncated body",  # a shorter body, whose own length is announced
    "corrupt body",  # a changed byte in the middle
]
Answer = tuple[int, list[tuple[str, str]], bytes | memoryview]
"""Status, headers and body."""

_HOP_BY_HOP_HEADERS = frozenset(("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"))


def is_download(request: BaseHTTPRequestHandler) -> bool:
    """Whether a shard, or a part of one, is read."""
    return request.command == "GET" and urlsplit(request.path).path.endswith(".tar")


class FaultyServer:
    """A proxy that fails every `every`-th request (0: none) with `fault`, and counts requests and faults.

    If the fault is one of the body, only downloads of shards are counted for `every`.
    """

    fault: Fault = "503"
    every = 0
    stall_seconds = 1.0

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname, parts.port)
        self.num_requests = self.num_faults = 0
        self._num_downloads = 0
        self._lock, self._stopped = threading.Lock(), threading.Event()
        faulty = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_any(self) -> None:
                faulty.handle(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815 (names required by the base class)

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Forward a request, or fail it."""
        with self._lock:
            self.num_requests += 1
            self._num_downloads += is_download(request)
            in_body = self.fault.endswith("body")
            number = self._num_downloads if in_body else self.num_requests
            fails = self.every > 0 and number % self.every == 0 and (is_download(request) or not in_body)
            self.num_faults += fails
        body = self._body(request)
        if fails and self.fault == "reset":
            self._reset(request)
        elif fails and self.fault in ("500", "503"):
            code, name = (500, "InternalError") if self.fault == "500" else (503, "SlowDown")
            text = f"<Error><Code>{name}</Code><Message>injected {self.fault}</Message></Error>".encode()
            self._answer(request, (code, [("Content-Type", "application/xml")], text))
        else:
            answer = self._forward(request, body)
            if fails and self.fault == "reset after it was done":
                self._reset(request)
            else:
                self._answer(request, answer, self.fault if fails else None)

    def _body(self, request: BaseHTTPRequestHandler) -> bytes:
        if request.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return request.rfile.read(int(request.headers.get("Content-Length", 0)))
        parts = []
        while size := int(request.rfile.readline().split(b";")[0], 16):
            parts.append(request.rfile.read(size))
            request.rfile.readline()
        request.rfile.readline()
        return b"".join(parts)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> Answer:
        connection = http.client.HTTPConnection(*self.upstream)
        dropped = {"connection", "transfer-encoding", "content-length", "expect"}
        headers = {name: value for name, value in request.headers.items() if name.lower() not in dropped}
        try:
            connection.request(request.command, request.path, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def _answer(self, request: BaseHTTPRequestHandler, answer: Answer, fault: Fault | None = None) -> None:
        status, headers, content = answer
        half = len(content) // 2
        if fault == "truncated body":
            content = content[:half]
        elif fault == "corrupt body":
            content = b"".join((content[:half], bytes([content[half] ^ 1]), content[half + 1 :]))
        request.send_response(status)
        length = str(len(content))
        for name, value in headers:
            if name.lower() == "content-length" and request.command == "HEAD":
                length = value
            if name.lower() not in _HOP_BY_HOP_HEADERS:
                request.send_header(name, value)
        request.send_header("Content-Length", length)
        request.end_headers()
        if request.command != "HEAD":
            self._send_body(request, content, fault)

    def _send_body(self, request: BaseHTTPRequestHandler, content: bytes | memoryview, fault: Fault | None) -> None:
        half = len(content) // 2
        if fault in ("reset in the body", "stall in the body", "short body"):
            self._send(request, content[:half])
            content = content[half:] if fault == "stall in the body" else b""
        if fault == "reset in the body":
            self._reset(request)
        elif fault == "short body":
            request.close_connection = True
        elif fault == "stall in the body":
            self._stopped.wait(self.stall_seconds)
        self._send(request, content)

    def _send(self, request: BaseHTTPRequestHandler, content: bytes | memoryview) -> None:
        if content:
            request.wfile.write(content)

    @staticmethod
    def _reset(request: BaseHTTPRequestHandler) -> None:
        # With this option closing the socket sends a reset.
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        request.close_connection = True
        request.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client may close its connection at any time.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def failing(error: BaseException) -> Callable[..., None]:
    """A storage call that raises `error`."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail
