"""Fewer index entries for jobs of no submission, and vacuum by how the tables are used."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Every job's row is written three times or more, and dead rows at the head of the queue are what
# claims would have to pass over: vacuum comes after a hundredth of the table, not after a fifth.
_HOT = {
    "autovacuum_vacuum_scale_factor": "0.01",
    "autovacuum_vacuum_threshold": "1000",
    "autovacuum_analyze_scale_factor": "0.02",
    "autovacuum_vacuum_cost_delay": "0",
}
# Filled and emptied over and over: what counts is how many rows died, not how many are there.
_JOURNAL = {
    "autovacuum_vacuum_scale_factor": "0",
    "autovacuum_vacuum_threshold": "2000",
    "autovacuum_analyze_scale_factor": "0",
    "autovacuum_analyze_threshold": "2000",
    "autovacuum_vacuum_cost_delay": "0",
}
# Few rows, each written over and over in place: room beside them keeps that off their indexes.
_COUNTERS = _JOURNAL | {
    "fillfactor": "50",
    "autovacuum_vacuum_threshold": "500",
    "autovacuum_analyze_threshold": "500",
}

_TABLES = {
    "jobs": _HOT,
    "tally_changes": _JOURNAL,
    "charges": _JOURNAL,
    "tallies": _COUNTERS,
    "shares": _COUNTERS,
    "runs": _COUNTERS,
}


def upgrade() -> None:
    # It commits half way, so every step may have been done by a try that failed.
    for table, options in _TABLES.items():
        chosen = ", ".join(f"{name} = {value}" for name, value in options.items())
        op.execute(f"ALTER TABLE {table} SET ({chosen})")
    with op.get_context().autocommit_block():
        _build("jobs_of_submission", ["submission_id", "id"], where="submission_id IS NOT NULL")
        _drop("jobs_submission")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        _build("jobs_submission", ["submission_id", "id"])
        _drop("jobs_of_submission")
    for table, options in _TABLES.items():
        op.execute(f"ALTER TABLE {table} RESET ({', '.join(options)})")


def _build(name: str, columns: list[str], where: str | None = None) -> None:
    # What a try left that was cut off is no index that anybody could use.
    _drop(name)
    condition = None if where is None else sa.text(where)
    op.create_index(name, "jobs", columns, postgresql_where=condition, postgresql_concurrently=True)


def _drop(name: str) -> None:
    op.drop_index(name, "jobs", if_exists=True, postgresql_concurrently=True)
