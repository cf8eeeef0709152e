"""Where no Redis server can be had, tickets travel through a folder."""

from tests.house import House, eventually
from tests.pictures import encoded

from twofold_schema.states import JobState


def test_a_ticket_through_a_folder_wakes_a_run(house: House) -> None:
    folder = house.marker("tickets")
    for name in ("queue", "control"):
        (folder / name).mkdir(parents=True)
    house.environment["TWOFOLD_BROKER_URL"] = f"filesystem://{folder}"
    # Nobody polls within this test, so that only a ticket can bring the work.
    house.worker(poll_seconds=3600)
    house.wait_ready()
    eventually(lambda: "ready." in house.logs(), why=house.logs)

    producer = house.producer()
    job_id = producer.submit(encoded()).job_id

    (job,) = house.wait_ended([job_id])
    assert job.state is JobState.SUCCEEDED
