"""Where a server on this machine lives: its folder, and what is in it.

    ~/.jitney (or JITNEY_HOME)
      token            the secret of this server, 0600
      server.json      how to reach the server that runs now (ServerInfo), written when it is ready
      lock             held by the server while it runs: a second one refuses
      secrets.key      the key that secrets in the store are encrypted with, 0600
      bucket.owner     the id of this folder, where files of volumes and sources are in a bucket
      store.sqlite     apps, calls, containers
      blobs/           payloads of durable calls; sources/: shipped files; images/: environments
      logs/            output of containers, a file per app; server.log, worker.log: ours
      containers/      scratch folders of running containers
      boxes/           what builds have around them, and the layer that hides what is private on this machine
      run/sockets/     the Unix sockets; containers behind a wall see this folder, and no other but their own
      segments         link to the folder in shared memory that large values go through

A Unix socket's path may have 107 bytes: where the folder's is longer, the socket is in a private folder under the
system's temporary folder.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

SOCKET_PATH_BYTES_MAX = 100


class ServerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach a running server on this machine."""

    pid: int
    version: str
    socket: str
    http: str = ""
    boot_id: str = ""
    segments: str = ""


class Home:
    """The paths of one server folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.token = root / "token"
        self.secret_keys = root / "secrets.key"
        self.bucket_owner = root / "bucket.owner"
        self.server_info = root / "server.json"
        self.lock = root / "lock"
        self.store = root / "store.sqlite"
        self.blobs = root / "blobs"
        self.files = root / "files"  # contents of sources by sha256
        self.near = root / "near"  # those that were used last, where they are in a bucket
        self.sources = root / "sources"
        self.images = root / "images"
        self.logs = root / "logs"
        self.containers = root / "containers"
        self.boxes = root / "boxes"
        self.volumes = root / "volumes"  # contents of files, by workspace
        self.trees = root / "trees"  # versions of volumes, laid out for mounts
        self.uppers = root / "uppers"  # what containers write to volumes
        self.buckets = root / "buckets"  # where buckets are mounted, for a moment each
        self.server_log = root / "server.log"
        self.worker_log = root / "worker.log"

    @classmethod
    def default(cls) -> Home:
        """The folder of `JITNEY_HOME`, or ~/.jitney."""
        return cls(Path(os.environ.get("JITNEY_HOME") or "~/.jitney").expanduser().absolute())

    @property
    def short(self) -> str:
        """What names things of this folder elsewhere on the machine: 12 hexadecimal digits."""
        import hashlib  # here, with what it loads: containers need neither

        return hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]

    @property
    def sockets(self) -> Path:
        """The folder of the Unix sockets: the one part of the server folder that containers behind a wall see.

        In the server folder, or where a path would be too long, in a private one. Whoever is in may connect, as
        containers have other ids than we: so it lies in a folder that only its owner can enter.
        """
        path = self.root / "run" / "sockets"
        if len(os.fsencode(path / "runner.sock")) <= SOCKET_PATH_BYTES_MAX:
            return path
        import tempfile

        return Path(tempfile.gettempdir()) / f"jitney-{os.getuid()}-{self.short}" / "sockets"

    def socket(self, name: str = "link.sock") -> Path:
        """Where a Unix socket of this folder is."""
        return self.sockets / name

    @property
    def segments(self) -> Path:
        """The folder for large values in flight: in shared memory where the system has it."""
        shared = Path("/dev/shm")
        if shared.is_dir() and os.access(shared, os.W_OK):
            return shared / f"jitney-{os.getuid()}-{self.short}"
        return self.root / "segments"

    def read_server_info(self) -> ServerInfo | None:
        """The server that says it runs here; None if none does. It may have died since: connecting tells."""
        try:
            return msgspec.json.decode(self.server_info.read_bytes(), type=ServerInfo)
        except (OSError, msgspec.MsgspecError):
            return None

    def read_token(self) -> str:
        """The server's token; '' if there is none or it may not be read."""
        try:
            return self.token.read_text().strip()
        except OSError:
            return ""
