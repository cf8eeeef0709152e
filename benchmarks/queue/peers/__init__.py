"""Who takes part: the ledger, a bare loop, and other queues, each with what makes it fast."""

from benchmarks.queue.peers.awa import Awa
from benchmarks.queue.peers.bare_loop import BareLoop
from benchmarks.queue.peers.celery import Celery
from benchmarks.queue.peers.contender import Contender
from benchmarks.queue.peers.pgqueuer import PgQueuer
from benchmarks.queue.peers.procrastinate import Procrastinate
from benchmarks.queue.peers.twofold import Twofold

__all__ = ["Awa", "BareLoop", "Celery", "Contender", "PgQueuer", "Procrastinate", "Twofold"]
