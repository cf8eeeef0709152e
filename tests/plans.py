"""How much of a table a statement reads."""

from typing import Any

from sqlalchemy import Engine, TextClause, text


def rows_read(engine: Engine, statement: TextClause, **parameters: object) -> int:
    """How many rows of jobs and runs a statement fetched, those that it then passed over included.

    What little there is of tallies, shares and pauses is read whole.
    """
    explain = text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.text}")
    with engine.connect() as connection:
        plan = connection.execute(explain, parameters).scalar_one()[0]["Plan"]
        connection.rollback()
    # Postgres says how many there were in each loop, rounded.
    return round(_rows_read(plan))


def settle(engine: Engine) -> None:
    """Give the planner what autovacuum would have told it soon after a bulk insert."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE jobs"))


def _rows_read(node: dict[str, Any]) -> float:
    own = 0.0
    if node.get("Relation Name") in {"jobs", "runs"} and node["Node Type"] != "ModifyTable":
        own = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    return own + sum(_rows_read(child) for child in node.get("Plans", []))
