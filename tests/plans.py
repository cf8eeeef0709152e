"""How much of a table a statement reads."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Engine, TextClause, text

#: How many rows of jobs this session fetched of late: the difference of two reads is what was
#: fetched in between, by whatever plan.
FETCHED = text("""
    SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'jobs'
""")


def rows_read(
    engine: Engine,
    statement: TextClause,
    parameters: Mapping[str, object] | None = None,
    *,
    of: Collection[str] | None = None,
    first: Callable[[Connection], None] | None = None,
) -> int:
    """How many rows a statement fetched, those that it then passed over included.

    Args:
        engine: Of the database.
        statement: What is explained, and taken back.
        parameters: Of the statement.
        of: Only of these tables; None for all.
        first: What its transaction does before.
    """
    # Postgres says how many there were in each loop, rounded.
    return round(_rows_read(_plan(engine, statement, parameters, first), of))


def pages_read(
    engine: Engine,
    statement: TextClause,
    parameters: Mapping[str, object] | None = None,
    *,
    first: Callable[[Connection], None] | None = None,
) -> int:
    """How many pages a statement read, dead rows' and dead entries' of indexes included."""
    plan = _plan(engine, statement, parameters, first)
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def settle(engine: Engine) -> None:
    """Give the planner what autovacuum would have told it soon after a bulk insert."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE jobs"))


def _plan(
    engine: Engine,
    statement: TextClause,
    parameters: Mapping[str, object] | None,
    first: Callable[[Connection], None] | None,
) -> dict[str, Any]:
    """How a statement ran, which is taken back."""
    explain = text(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement.text}")
    with engine.connect() as connection:
        if first:
            first(connection)
        plan: dict[str, Any] = connection.execute(explain, dict(parameters or {})).scalar_one()[0]
        connection.rollback()
    return dict(plan["Plan"])


def _rows_read(node: dict[str, Any], of: Collection[str] | None) -> float:
    own, table = 0.0, node.get("Relation Name")
    if table and node["Node Type"] != "ModifyTable" and (of is None or table in of):
        own = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    return own + sum(_rows_read(child, of) for child in node.get("Plans", []))
