"""What is said to whoever interrupts a call: that the work goes on, and how to come back to it."""

from collections.abc import Sequence
from uuid import UUID

from twofold_producer.submit.submission import Submission

_NAMED = 20


def submitting(key: str) -> str:
    """Of items that were being submitted under a key."""
    return (
        "What had arrived was submitted and goes on. The same call goes on where it was with "
        f'key="{key}".'
    )


def waiting(work: Submission | Sequence[UUID]) -> str:
    """Of jobs that were being waited for."""
    if isinstance(work, Submission):
        if not work.existing:
            return (
                f"The jobs go on. How far they are: twofold submissions get {work.id}; wait again "
                f'with client.wait_for_submission(UUID("{work.id}")).'
            )
        work = work.job_ids
    if len(work) > _NAMED:
        return f"The {len(work)} jobs go on. Wait for them again by their ids."
    ids = " ".join(str(job_id) for job_id in work)
    return f"The jobs go on. Wait again with: twofold jobs get --wait {ids}"


def mapping(submissions: Sequence[Submission]) -> str:
    """Of items some of which were submitted so far."""
    commands = [f"twofold submissions get {one.id}" for one in submissions]
    # What was on its way when the interrupt came has no name here.
    ways = "; ".join([*commands, "twofold jobs list"])
    return f"What was submitted goes on, and no more is submitted. How far it is: {ways}"
