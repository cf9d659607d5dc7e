"""What `jitney doctor` says of buckets: the one that files of volumes and sources are in, and what mounts others for
containers."""

from __future__ import annotations

import os

from jitney.compose import buckets, registry, tiers
from jitney.compose.config import Config
from jitney.compose.findings import Finding, error, ok, warning
from jitney.errors import JitneyError
from jitney.values.isolation import Isolation
from jitney.wire.home import Home


def contents(home: Home, config: Config) -> Finding:
    """Where files of volumes and shipped sources are, and whether that answers."""
    where = config.server.contents
    if not buckets.is_bucket(where):
        return ok("contents", f"files of volumes are in {home.volumes}, shipped sources in {home.files}")
    try:
        buckets.look(config.server, os.environ)
    except JitneyError as problem:
        return error(
            "contents", f"files of volumes and shipped sources are in {where}", problem.message, fix=problem.hint
        )
    at = config.server.contents_endpoint or "AWS"
    return ok("contents", f"files of volumes and shipped sources are in {where} ({at}), which answers")


def mounter(home: Home, config: Config) -> Finding:
    """What mounts buckets for containers."""
    found = registry.bucket_mounter(home, config.worker)
    if why := found.why_not():
        what, _, fix = why.partition(": ")
        return warning("buckets", "no CloudBucketMount can be mounted here", what, fix=fix)
    if tiers.choose(config.worker.runtime) == Isolation.PROCESS:
        return warning(
            "buckets",
            f"{found.program} is there, and containers of this runtime cannot have its mounts",
            "a function with a CloudBucketMount does not start",
            fix="`jitney config set runtime namespaces`, where `tiers` says that it can be had",
        )
    return ok("buckets", f"{found.program} mounts them")
