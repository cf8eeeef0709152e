"""What all tables are made with."""

from sqlalchemy import BigInteger, Column, DateTime, MetaData, func, text

metadata = MetaData(
    naming_convention={
        "ck": "%(table_name)s_%(constraint_name)s",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)


_PARTITIONS = ("events_", "history_", "pairs_")


def one_of(column: str, values: tuple[str, ...]) -> str:
    """A condition: the column holds one of these words."""
    quoted = ", ".join(f"'{value}'" for value in values)
    return f"{column} IN ({quoted})"


def time(name: str, *, required: bool = False) -> Column[object]:
    """A column for a moment; where one is required, it is that of the insert."""
    default = func.clock_timestamp() if required else None
    return Column(name, DateTime(timezone=True), nullable=not required, server_default=default)


def xid() -> Column[object]:
    """A column for the transaction that wrote the row, as a number that there is a type for."""
    default = text("((pg_current_xact_id())::text)::bigint")
    return Column("xid", BigInteger, nullable=False, server_default=default)


def is_in_code(name: str | None, kind: str, _parents: object = None) -> bool:
    """Whether a thing in the database is one that these modules describe: partitions are not.

    As Alembic's `include_name`.
    """
    return not (kind == "table" and name is not None and name.startswith(_PARTITIONS))
