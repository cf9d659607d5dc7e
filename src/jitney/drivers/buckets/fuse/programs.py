"""Programs that mount buckets, and how each is told. Pure.

All run in the foreground. None is given credentials in its arguments, nor finds any that are not the bucket's own: no
configuration of this machine is read, and its role is not asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jitney.values.buckets import ACCESS_KEY, SECRET_KEY, SESSION_TOKEN, BucketMount, region_of

# The first that is installed is used: in the order that benchmarks/bucket_bench.py found them (docs/howto/buckets.md),
# and those last that it has not seen.
ORDER = ("rclone", "s3fs", "mount-s3")
REMEDIES = {
    "mount-s3": "install the package mount-s3 of AWS's releases of mountpoint-s3",
    "rclone": "`apt-get install rclone fuse3`",
    "s3fs": "`apt-get install s3fs`",
}
FOR_EVER_S = 10 * 365 * 86_400
TTL_S = 1  # where none is asked for
PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
             "SSL_CERT_FILE", "SSL_CERT_DIR")  # fmt: skip
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Place(NamedTuple):
    """Where a bucket is mounted for a moment, a folder for the program alone, and who owns the files."""

    folder: str
    own: str
    uid: int
    gid: int


class Command(NamedTuple):
    """A program to run: its repr has no environment, as there are credentials in it."""

    argv: Sequence[str]
    environ: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Command({list(self.argv)})"


def render(name: str, program: str, bucket: BucketMount, credentials: Mapping[str, str], place: Place,
           environ: Mapping[str, str], *, extra: Sequence[str] = ()) -> Command:  # fmt: skip
    """How a program mounts a bucket. `environ`: of this process; `extra`: options that this version of it wants too.

    Raises:
        InvalidError: the credentials cannot be.
    """
    base = {
        "PATH": PATH,
        "HOME": place.own,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        **{key: environ[key] for key in PASSED_ON if key in environ},
    }
    argv, own = _RENDERERS[name](bucket, dict(credentials), place)
    if extra:
        argv[-1] += "," + ",".join(extra)
    return Command([program, *argv], {**base, **own})


def has_keys(credentials: Mapping[str, str]) -> bool:
    """Whether a bucket is asked as somebody."""
    return bool(credentials.get(ACCESS_KEY) and credentials.get(SECRET_KEY))


def _named(credentials: Mapping[str, str], access: str, secret: str, token: str) -> dict[str, str]:
    if not has_keys(credentials):
        return {}
    found = {access: credentials[ACCESS_KEY], secret: credentials[SECRET_KEY]}
    if credentials.get(SESSION_TOKEN):
        found[token] = credentials[SESSION_TOKEN]
    return found


def _ttl_s(bucket: BucketMount) -> int:
    if bucket.metadata_ttl_s is None:
        return TTL_S
    return FOR_EVER_S if bucket.metadata_ttl_s < 0 else bucket.metadata_ttl_s


Rendered = tuple[list[str], dict[str, str]]


def _mount_s3(bucket: BucketMount, credentials: dict[str, str], place: Place) -> Rendered:
    argv = [bucket.bucket, place.folder, "--foreground", "--allow-other", "--region", region_of(credentials)]
    argv += ["--uid", str(place.uid), "--gid", str(place.gid), "--file-mode", "0644", "--dir-mode", "0755"]
    argv += [f"--endpoint-url={bucket.endpoint}"] if bucket.endpoint else []
    argv += [f"--prefix={bucket.prefix}"] if bucket.prefix else []
    argv += ["--read-only"] if bucket.read_only else ["--allow-delete", "--allow-overwrite"]
    argv += ["--requester-pays"] if bucket.requester_pays else []
    argv += ["--force-path-style"] if bucket.force_path_style else []
    argv += ["--no-sign-request"] if not has_keys(credentials) else []
    if bucket.metadata_ttl_s is not None:
        ttl = {-1: "indefinite", 0: "minimal"}.get(bucket.metadata_ttl_s, str(bucket.metadata_ttl_s))
        argv += ["--metadata-ttl", ttl]
    return argv, _named(credentials, ACCESS_KEY, SECRET_KEY, SESSION_TOKEN)


def _rclone(bucket: BucketMount, credentials: dict[str, str], place: Place) -> Rendered:
    argv = ["mount", f":s3:{bucket.bucket}/{bucket.prefix}".rstrip("/"), place.folder, "--config", "/dev/null"]
    argv += ["--allow-other", "--uid", str(place.uid), "--gid", str(place.gid), "--umask", "022"]
    # Without a cache of files, what is written is in the bucket when it is closed.
    argv += ["--vfs-cache-mode", "off", "--cache-dir", place.own, "--dir-cache-time", f"{_ttl_s(bucket)}s"]
    argv += ["--attr-timeout", f"{min(_ttl_s(bucket), 60)}s", "--use-server-modtime", "--buffer-size", "16M"]
    argv += ["--s3-provider", "Other" if bucket.endpoint else "AWS", "--s3-env-auth=false", "--s3-no-check-bucket"]
    argv += ["--s3-region", region_of(credentials), f"--s3-force-path-style={str(_is_path(bucket)).lower()}"]
    argv += [f"--s3-endpoint={bucket.endpoint}"] if bucket.endpoint else []
    argv += ["--s3-requester-pays"] if bucket.requester_pays else []
    argv += ["--read-only"] if bucket.read_only else []
    argv += ["--retries", "5", "--low-level-retries", "10", "--contimeout", "10s", "--timeout", "60s"]
    names = "RCLONE_S3_ACCESS_KEY_ID", "RCLONE_S3_SECRET_ACCESS_KEY", "RCLONE_S3_SESSION_TOKEN"
    return argv, _named(credentials, *names)


def _s3fs(bucket: BucketMount, credentials: dict[str, str], place: Place) -> Rendered:
    options = ["allow_other", f"uid={place.uid}", f"gid={place.gid}", "umask=022", "mp_umask=022"]
    options += [f"tmpdir={place.own}", f"stat_cache_expire={_ttl_s(bucket)}", f"endpoint={region_of(credentials)}"]
    options += ["retries=5", "connect_timeout=10", "readwrite_timeout=60"]
    options += [f"url={bucket.endpoint}"] if bucket.endpoint else []
    options += ["use_path_request_style"] if _is_path(bucket) else []
    options += ["requester_pays"] if bucket.requester_pays else []
    options += ["ro"] if bucket.read_only else []
    options += ["public_bucket=1"] if not has_keys(credentials) else []
    where = f"{bucket.bucket}:/{bucket.prefix.rstrip('/')}" if bucket.prefix else bucket.bucket
    argv = [where, place.folder, "-f", "-o", ",".join(options)]
    return argv, _named(credentials, "AWSACCESSKEYID", "AWSSECRETACCESSKEY", "AWSSESSIONTOKEN")


def _is_path(bucket: BucketMount) -> bool:
    """Servers that are not AWS's have certificates, and names, for one host."""
    return bucket.force_path_style or bool(bucket.endpoint)


_RENDERERS: dict[str, Callable[[BucketMount, dict[str, str], Place], Rendered]] = {
    "mount-s3": _mount_s3,
    "rclone": _rclone,
    "s3fs": _s3fs,
}
