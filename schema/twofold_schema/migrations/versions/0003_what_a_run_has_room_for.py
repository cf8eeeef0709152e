"""How large a padded source is, and the largest that a run has room for."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_WAITING_SIZE = "state IN ('scheduled', 'queued') AND lattice_pixels IS NOT NULL"


def upgrade() -> None:
    # It commits half way, so every step may have been done by a try that failed.
    size = sa.Column("lattice_pixels", sa.BigInteger(), nullable=True)
    room = sa.Column("max_lattice_pixels", sa.BigInteger(), nullable=True)
    op.add_column("jobs", size, if_not_exists=True)
    op.add_column("runs", room, if_not_exists=True)
    # Concurrently, because to look through a large table takes long, and nobody could write.
    with op.get_context().autocommit_block():
        _build("jobs_queued_size", ["job_class", "id", sa.text("coalesce(lattice_pixels, 0)")])
        _build("jobs_waiting_size", ["lattice_pixels"], where=_WAITING_SIZE)
        # The old code's claims read the new one as well.
        _drop("jobs_queued")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        _build("jobs_queued", ["job_class", "id"])
        _drop("jobs_waiting_size")
        _drop("jobs_queued_size")
    op.drop_column("runs", "max_lattice_pixels", if_exists=True)
    op.drop_column("jobs", "lattice_pixels", if_exists=True)


def _build(name: str, columns: list[str | sa.TextClause], where: str = "state = 'queued'") -> None:
    # What a try left that was cut off is no index that anybody could use.
    _drop(name)
    op.create_index(
        name, "jobs", columns, postgresql_where=sa.text(where), postgresql_concurrently=True
    )


def _drop(name: str) -> None:
    op.drop_index(name, "jobs", if_exists=True, postgresql_concurrently=True)
