"""The one task: a ticket came, so look for work."""

from celery import Celery

from twofold_schema import ticket
from twofold_worker.stages import Stages


def register(app: Celery, stages: Stages) -> None:
    """Make the app answer tickets.

    The task lasts as long as there is work, so that a busy process leaves the next ticket to an
    idle one, and a warm shutdown waits for what is in hand.
    """

    @app.task(name=ticket.TASK_NAME, ignore_result=True)
    def drain() -> None:
        stages.wake()
        stages.wait_idle()
