"""The ticket: a Celery message that says "work waits". It carries no truth, not even a job's id."""

#: The Celery task that a ticket calls.
TASK_NAME = "twofold.drain"

#: The Celery queue that tickets travel on.
QUEUE = "twofold"

#: A ticket that nobody took by then is dropped; the poll and the keeper cover for it.
EXPIRES_SECONDS = 60
