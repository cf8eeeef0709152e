"""The tables, a module for each part of the ledger."""

from twofold_schema.tables import (
    api_keys,
    counts,
    fleet,
    jobs,
    operations,
    shares,
    submissions,
    webhooks,
)
from twofold_schema.tables.base import is_in_code, metadata

__all__ = [
    "api_keys",
    "counts",
    "fleet",
    "is_in_code",
    "jobs",
    "metadata",
    "operations",
    "shares",
    "submissions",
    "webhooks",
]
