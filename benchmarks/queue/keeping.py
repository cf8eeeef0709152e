"""The keeper's part, beside clients that claim and complete."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from benchmarks.queue.servers import Database
from twofold_producer.keeper.duties import count_duties, fold_duties
from twofold_producer.keeper.loop import Keeper
from twofold_schema.settings import KeeperSettings

_NEVER_HOURS: Final = 24 * 3650


@contextmanager
def kept(database: Database) -> Iterator[None]:
    """Fold and roll up as often as a keeper does; its other duties find nothing here.

    Rows that have ended stay among those at work, where a claim could meet them.
    """
    settings = KeeperSettings(history_after_hours=_NEVER_HOURS)
    engine, stop = database.connect(), threading.Event()
    every = settings.keeper_seconds
    keepers = (
        Keeper(count_duties(engine, settings), every_seconds=every),
        Keeper(fold_duties(engine), every_seconds=every, hurries=True),
    )
    threads = [threading.Thread(target=keeper.run, args=(stop,)) for keeper in keepers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        engine.dispose()
