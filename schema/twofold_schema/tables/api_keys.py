"""Who may ask over HTTP."""

from sqlalchemy import CheckConstraint, Column, Index, LargeBinary, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import ARRAY

from twofold_schema.api_key import Scope
from twofold_schema.tables.base import metadata, time

_SCOPES = ", ".join(f"'{scope}'" for scope in Scope)

#: API keys: all but their secrets, of which there are only digests; see `api_keys`.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Uuid, primary_key=True),
    # NULL for all tenants.
    Column("tenant", Text),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),
    # SHA-256 of a secret of 256 random bits: nobody can try them all, so no slow hash is needed.
    Column("digest", LargeBinary, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    time("created_at", required=True),
    Column("created_by", Text, nullable=False),
    time("expires_at"),
    time("revoked_at"),
    Column("rotated_to", Uuid),
    time("last_used_at"),
    CheckConstraint(f"scopes <@ ARRAY[{_SCOPES}]", "scopes_known"),
    CheckConstraint("cardinality(scopes) > 0", "scopes_stated"),
    # Jobs are somebody's.
    CheckConstraint(
        "tenant IS NOT NULL OR 'admin' = ANY (scopes) OR NOT 'submit' = ANY (scopes)",
        "submits_for_somebody",
    ),
    CheckConstraint("octet_length(digest) = 32", "digest_whole"),
    Index("api_keys_digest", "digest", unique=True),
)
