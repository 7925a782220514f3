"""Fixtures for several rooms."""

from tests.unit.images.buckets import bucket, s3

__all__ = ["bucket", "s3"]
