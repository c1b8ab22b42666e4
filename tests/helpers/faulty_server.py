"""Storage faults: an HTTP proxy that forwards requests and injects faults at a fixed rate, and calls that fail."""

import http.client
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal, Self
from urllib.parse import urlsplit

Fault = Literal["500", "503", "reset", "reset after it was done"]
_HOP_BY_HOP_HEADERS = frozenset(("connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"))


class FaultyServer:
    """A proxy that fails every `every`-th request (0: none) with `fault`, and counts requests and faults."""

    fault: Fault = "503"
    every = 0

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname, parts.port)
        self.num_requests = self.num_faults = 0
        self._lock = threading.Lock()
        faulty = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                faulty.handle(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815 (names required by the base class)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """Forward a request, or fail it."""
        with self._lock:
            self.num_requests += 1
            fails = self.every > 0 and self.num_requests % self.every == 0
            self.num_faults += fails
        body = self._body(request)
        if fails and self.fault == "reset":
            self._reset(request)
        elif fails and self.fault in ("500", "503"):
            code, name = (500, "InternalError") if self.fault == "500" else (503, "SlowDown")
            text = f"<Error><Code>{name}</Code><Message>injected {self.fault}</Message></Error>".encode()
            self._answer(request, code, [("Content-Type", "application/xml")], text)
        else:
            response, content = self._forward(request, body)
            if fails:
                self._reset(request)
            else:
                self._answer(request, response.status, response.getheaders(), content)

    def _body(self, request: BaseHTTPRequestHandler) -> bytes:
        if request.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return request.rfile.read(int(request.headers.get("Content-Length", 0)))
        parts = []
        while size := int(request.rfile.readline().split(b";")[0], 16):
            parts.append(request.rfile.read(size))
            request.rfile.readline()
        request.rfile.readline()
        return b"".join(parts)

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection(*self.upstream)
        dropped = {"connection", "transfer-encoding", "content-length", "expect"}
        headers = {name: value for name, value in request.headers.items() if name.lower() not in dropped}
        try:
            connection.request(request.command, request.path, body=body, headers=headers)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    @staticmethod
    def _answer(request: BaseHTTPRequestHandler, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
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
            request.wfile.write(content)

    @staticmethod
    def _reset(request: BaseHTTPRequestHandler) -> None:
        # With this option closing the socket sends a reset.
        request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        request.close_connection = True
        request.connection.close()


def failing(error: BaseException) -> Callable[..., None]:
    """A storage call that raises `error`."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail
