"""Servers of buckets for tests and benchmarks, each in a process of its own, and a proxy that spoils answers.

moto answers as AWS does, down to its errors, keeps all in memory, and takes any signature. SeaweedFS keeps objects on
the disk, and takes none that is wrong.
"""

from __future__ import annotations

import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

START_S = 60.0
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "an-example-of-a-secret-key"}

_PROGRAM = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


class S3Server(NamedTuple):
    """A server that runs. `admin`: where its buckets can be had without a signature."""

    url: str
    admin: str = ""

    def make_bucket(self, name: str = "") -> str:
        """A new bucket: its name. It keeps versions: without them moto answers 400 for the version `null`, which rclone
        asks for after it has put a large object."""
        name = name or f"b-{secrets.token_hex(6)}"
        if self.admin:
            self._ask("POST", f"{name}/")
            return name
        self.put(name, b"")
        self.put(f"{name}?versioning", b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>")
        return name

    def put(self, name: str, data: bytes) -> None:
        """An object (bucket/name), or a bucket."""
        self._ask("PUT", name, data)

    def get(self, name: str) -> bytes:
        """What an object is."""
        return self._ask("GET", name)

    def _ask(self, method: str, name: str, data: bytes | None = None) -> bytes:
        # The signature is not checked, but says who asks.
        signed = f"AWS4-HMAC-SHA256 Credential={KEYS['AWS_ACCESS_KEY_ID']}/20260101/us-east-1/s3/x"
        headers = {} if self.admin else {"Authorization": signed}
        if data is not None:
            headers["Content-Type"] = "application/octet-stream"
        with urllib.request.urlopen(
            urllib.request.Request(f"{self.admin or self.url}/{name}", data, headers, method=method)
        ) as done:
            found: bytes = done.read()
            return found


@contextmanager
def s3_server(**environ: str) -> Iterator[S3Server]:
    """One on the loopback address, which forgets all at its end."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environ},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        host, port = process.stdout.readline().split()
        yield S3Server(f"http://{host}:{port}")
    finally:
        process.stdin.close()
        process.stdout.close()
        process.kill()
        process.wait()


def weed() -> str:
    """SeaweedFS's program, of the extra dev; "" where it is not installed."""
    return (
        shutil.which("weed", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])) or ""
    )


@contextmanager
def seaweed_server() -> Iterator[S3Server]:
    """One on the loopback address, whose folder goes at its end.

    Raises:
        RuntimeError: it does not come up.
    """
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": KEYS["AWS_SECRET_ACCESS_KEY"]}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    with tempfile.TemporaryDirectory(prefix="jitney-weed-") as folder:
        config = os.path.join(folder, "identities.json")
        with open(config, "w") as file:
            json.dump({"identities": [identity]}, file)
        names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
                 "s3.port", "s3.port.grpc")  # fmt: skip
        ports = dict(zip(names, _free_ports(len(names)), strict=True))
        flags: dict[str, object] = {
            **ports,
            "dir": folder,
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "metricsPort": 0,
            "volume.max": 0,  # as many as the disk has room for
            "master.volumeSizeLimitMB": 1_000,
            "s3.config": config,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": os.path.join(folder, "s3.sock"),
            "filer.localSocket": os.path.join(folder, "filer.sock"),
            "s3.autoCreateBucket": "false",
        }
        process = subprocess.Popen(
            [weed(), "server", "-filer", "-s3", *(f"-{name}={value}" for name, value in flags.items())],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            server = S3Server(f"http://127.0.0.1:{ports['s3.port']}", f"http://127.0.0.1:{ports['filer.port']}/buckets")
            _wait_for(process, server)
            yield server
        finally:
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def _wait_for(process: subprocess.Popen[bytes], server: S3Server) -> None:
    """Until objects can be put, which comes some time after it answers."""
    deadline_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline_s:
        with suppress(OSError, http.client.HTTPException):
            url = urlsplit(server.url)
            socket.create_connection((url.hostname, url.port), timeout=1).close()
            server.put(f"{server.make_bucket()}/first", b"x")
            return
        time.sleep(0.1)
    ended = process.poll()
    raise RuntimeError(f"SeaweedFS has not come up within {START_S:g} s (exit code {ended})")


class Fault(NamedTuple):
    """What becomes of a request. Status 0: it is passed on; `cut`: of its answer, only so many bytes come."""

    status: int = 0
    code: str = "InternalError"
    cut: int = -1
    hangs: bool = False  # until the proxy is closed
    after: bool = False  # the server has done it, and the answer is lost


PASS = Fault()
Plan = Callable[[str, str], Fault]  # method and path of a request


class FaultyProxy:
    """Between a client and a server: `plan` says what becomes of each request; `asked` has all of them."""

    def __init__(self, target: str, plan: Plan = lambda method, path: PASS) -> None:
        self.plan = plan
        self.asked: list[tuple[str, str]] = []
        self.ended = threading.Event()
        proxy, host = self, urlsplit(target).netloc

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.asked.append((self.command, self.path))
                fault = proxy.plan(self.command, self.path)
                if fault.hangs:
                    proxy.ended.wait()
                    self.close_connection = True
                elif fault.status and not fault.after:
                    _refuse(self, fault)
                else:
                    _forward(self, host, body, fault)

            def log_message(self, *words: object) -> None:
                """Nothing."""

        for method in ("GET", "PUT", "HEAD", "POST", "DELETE"):
            setattr(Handler, f"do_{method}", Handler._serve)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """End it, and what hangs in it."""
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _refuse(handler: BaseHTTPRequestHandler, fault: Fault) -> None:
    body = f"<Error><Code>{fault.code}</Code><Message>as planned</Message></Error>".encode()
    handler.send_response(fault.status)
    handler.send_header("Content-Length", "0" if handler.command == "HEAD" else str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def _forward(handler: BaseHTTPRequestHandler, host: str, body: bytes, fault: Fault) -> None:
    there = http.client.HTTPConnection(host)
    try:
        there.request(handler.command, handler.path, body, dict(handler.headers.items()))
        answer = there.getresponse()
        data = answer.read()
        if fault.status:
            _refuse(handler, fault)
            return
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                handler.send_header(name, value)
        size = answer.getheader("Content-Length") if handler.command == "HEAD" else str(len(data))
        handler.send_header("Content-Length", size or "0")
        handler.end_headers()
        handler.wfile.write(data if fault.cut < 0 else data[: fault.cut])
        handler.close_connection = fault.cut >= 0
    finally:
        there.close()
