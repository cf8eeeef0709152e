"""Identifiers of jobs, submissions and runs."""

from uuid import UUID

import uuid_utils.compat


def new_id() -> UUID:
    """A UUID version 7 (RFC 9562): sorted by time, so that new rows land together in an index."""
    return uuid_utils.compat.uuid7()
