"""The client for threads is what is made of the one for an event loop."""

from tools import sync_client


def test_it_is_what_is_made() -> None:
    folder = sync_client.CLIENT / "synchronous"
    there = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
    assert there == sync_client.made(), "run `python -m tools.sync_client`"


def test_nothing_is_left_of_the_event_loop() -> None:
    for name, text in sync_client.made().items():
        code = text.partition("\n")[2]
        for word in ("async", "await", "Async", "aread", "aclos"):
            assert word not in code, f"{name} has {word!r}"
