"""How much of a table a statement reads."""

from typing import Any

from sqlalchemy import Engine, TextClause, text


def rows_read(engine: Engine, statement: TextClause, **parameters: object) -> float:
    """How many rows a statement fetched from tables, those that it then passed over included."""
    explain = text(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement.text}")
    with engine.connect() as connection:
        plan = connection.execute(explain, parameters).scalar_one()[0]["Plan"]
        connection.rollback()
    return _rows_read(plan)


def settle(engine: Engine) -> None:
    """Give the planner what autovacuum would have told it soon after a bulk insert."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE jobs"))


def _rows_read(node: dict[str, Any]) -> float:
    own = 0.0
    if "Relation Name" in node and node["Node Type"] != "ModifyTable":
        own = (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    return own + sum(_rows_read(child) for child in node.get("Plans", []))
