"""Buckets mounted by FUSE."""

from jitney.drivers.buckets.fuse.driver import FuseBucket as FuseBucket
from jitney.drivers.buckets.fuse.driver import FuseBuckets as FuseBuckets
