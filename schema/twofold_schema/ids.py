"""Identifiers of jobs, submissions and runs."""

from typing import TypeAlias
from uuid import UUID

import uuid_utils
import uuid_utils.compat

#: An id as the 16 bytes that it is. Where there are a hundred thousand, a `UUID` for each is an
#: object more that Python looks through for garbage, again and again.
PackedId: TypeAlias = bytes


def new_id() -> UUID:
    """A UUID version 7 (RFC 9562): sorted by time, so that new rows land together in an index."""
    return uuid_utils.compat.uuid7()


def new_packed_id() -> PackedId:
    """The same in its bytes."""
    return uuid_utils.uuid7().bytes
