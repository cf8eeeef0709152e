"""Whether storage answers, as all who need it come to know."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from tests.house import eventually

from twofold_schema.errors import StorageUnavailable
from twofold_worker.reach import Reach

AMPLE = 20.0


def test_storage_is_there_until_it_does_not_answer_and_again_when_it_does() -> None:
    away: list[StorageUnavailable] = []

    def ask() -> None:
        if away:
            raise away[0]

    reach = Reach(ask)
    reach.wait(AMPLE)
    assert reach.error is None
    away.append(StorageUnavailable("no answer"))
    assert reach.ask() is reach.error is away[0]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(reach.wait, AMPLE)
        away.clear()
        assert reach.ask() is None
        waiting.result(AMPLE)
    assert reach.error is None


def test_who_comes_while_somebody_asks_shares_the_answer() -> None:
    """A silent storage is not asked by one thread after the other."""
    asked: list[str] = []
    answer = threading.Event()

    def ask() -> None:
        asked.append("anybody there?")
        answer.wait(AMPLE)

    reach = Reach(ask)

    def waiting() -> int:
        """How many threads stand in `Reach.ask` itself, their question in mind."""
        return sum(
            frame.f_code is Reach.ask.__code__ and "asked" in frame.f_locals
            for frame in sys._current_frames().values()
        )

    with ThreadPoolExecutor(9) as pool:
        asking = [pool.submit(reach.ask)]
        eventually(lambda: asked)
        asking += [pool.submit(reach.ask) for _ in range(8)]
        eventually(lambda: waiting() == 8)
        answer.set()
        for one in asking:
            one.result(AMPLE)

    assert len(asked) == 1
