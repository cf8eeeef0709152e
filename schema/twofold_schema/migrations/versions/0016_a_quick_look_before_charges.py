"""Charges are looked for only where a claim has ended."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

# As in 0006, but for the first line: most updates end no claim, and to look through the rows is far
# cheaper than to join them.
_CORRECT_CHARGES = """
    CREATE OR REPLACE FUNCTION correct_charges() RETURNS trigger LANGUAGE plpgsql
    SET enable_nestloop = off AS $$
    BEGIN
        {look}
        INSERT INTO charges (tenant, job_class, advance, jobs, gpu_seconds)
        SELECT tenant, job_class, sum(spent - charged) / coalesce(weight, 1),
               count(*) FILTER (WHERE succeeded), coalesce(sum(spent) FILTER (WHERE succeeded), 0)
        FROM (
            SELECT job.tenant, job.job_class, past.charged,
                   job.state = 'succeeded' AS succeeded,
                   CASE WHEN job.state = 'succeeded'
                        THEN coalesce((job.result ->> 'gpu_seconds')::double precision,
                                      job.est_gpu_seconds, past.charged)
                        WHEN past.started_at IS NULL THEN 0
                        ELSE past.charged END AS spent
            FROM old_rows AS past JOIN new_rows AS job USING (id)
            WHERE past.state = 'running' AND job.state <> 'running'
              AND past.charged IS NOT NULL
        ) AS ended
        LEFT JOIN tenants USING (tenant)
        GROUP BY tenant, job_class, weight
        HAVING sum(spent - charged) <> 0 OR bool_or(succeeded);
        RETURN NULL;
    END $$
"""
_LOOK = "IF NOT EXISTS (SELECT FROM old_rows WHERE state = 'running') THEN RETURN NULL; END IF;"


def upgrade() -> None:
    op.execute(_CORRECT_CHARGES.format(look=_LOOK))


def downgrade() -> None:
    op.execute(_CORRECT_CHARGES.format(look=""))
