"""One worker process: builds the real parts, joins them, runs Celery in the main thread.

The only place that builds anything. `python -m twofold_worker.app` is what the supervisor starts.
"""

import argparse
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from importlib.metadata import version

import structlog
from celery import Celery, bootsteps
from celery.signals import setup_logging, worker_shutting_down
from sqlalchemy.exc import DBAPIError

from twofold_schema import database, log, ticket
from twofold_schema.errors import ConfigError
from twofold_schema.ids import new_id
from twofold_schema.ledger import runs
from twofold_schema.settings import (
    BrokerSettings,
    DatabaseSettings,
    LimitSettings,
    LogSettings,
    StorageSettings,
    WorkerSettings,
)
from twofold_schema.storage.places import OpenPlaces
from twofold_worker import precedence, tasks
from twofold_worker.bell import Listener
from twofold_worker.capacity import Capacity
from twofold_worker.cold_start import ColdStart
from twofold_worker.engine import Engine
from twofold_worker.heartbeat import Heartbeat
from twofold_worker.holdings import Holdings
from twofold_worker.pipeline import Pipeline
from twofold_worker.progress import Progress
from twofold_worker.stages import Stages
from twofold_worker.upscaler.port import DeviceUnseen, Upscaler
from twofold_worker.watchdog import Watchdog
from twofold_worker.work import Watch, unwatched

logger = structlog.get_logger(__name__)

#: The share of TWOFOLD_STOP_SECONDS after which a stopping process gives back what is left. That is
#: charged to nobody; if the supervisor had to kill, what has begun would be suspected of a crash.
_STOPPING_SHARE = 0.8


def load(
    worker: WorkerSettings, limits: LimitSettings, cold_start: ColdStart
) -> tuple[Upscaler, Capacity, str]:
    """The model on its device, warmed up, what fits beside it, and the device's name.

    Raises:
        ConfigError: It cannot be loaded.
    """
    # Only who loads the model pays for these imports.
    from twofold_worker.upscaler.diffusion import DiffusionUpscaler
    from twofold_worker.upscaler.planning import capacity_of, compile_for

    cold_start.end("imports")
    upscaler = DiffusionUpscaler.load(
        worker.model, revision=worker.model_revision, device=worker.device, dtype=worker.dtype
    )
    cold_start.end("weights")
    upscaler.warm_up()
    cold_start.end("warm_up")
    capacity = capacity_of(upscaler, worker, limits)
    cold_start.end("plan")
    compile_for(upscaler, capacity, worker)
    cold_start.end("compile")
    return upscaler, capacity, str(upscaler.device)


def celery_app(settings: BrokerSettings) -> Celery:
    """Celery, told that its messages are hints: acknowledged at once, no results kept."""
    app = Celery("twofold", broker=settings.url)
    app.conf.update(
        task_default_queue=ticket.QUEUE,
        task_ignore_result=True,
        worker_concurrency=1,
        worker_pool="threads",
        # A busy process must not hoard tickets that would wake an idle one.
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=settings.is_redis,
        # The poll goes on without the broker, however long it is away, or takes no writes.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        broker_transport_options=settings.transport_options,
        worker_enable_remote_control=True,
    )
    return app


def _before_the_pool_stops(app: Celery, act: Callable[[], None]) -> None:
    """Call `act` before a shutdown, by a signal or from remote, waits for the task under way."""

    class Herald(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Pool",)

        def stop(self, _worker: object) -> None:
            act()

    app.steps["worker"].add(Herald)


class Process:
    """One run, from its registration to its end."""

    def __init__(self, *, liveness: int | None, watch: Watch, upscaler: Upscaler | None) -> None:
        precedence.shorten_turns()
        self._liveness = liveness
        self._celery_stops = self._is_told_to_stop = False
        self._cold_start = ColdStart()
        watch = self._cold_start.watching(watch)
        worker, database_settings = WorkerSettings.load(), DatabaseSettings.load()
        self._broker = BrokerSettings.load()
        places = StorageSettings.load()
        limits = LimitSettings.load()
        device = worker.device
        if upscaler is None:
            upscaler, capacity, device = load(worker, limits, self._cold_start)
        else:
            capacity = Capacity(max_batch=worker.max_batch)
        self._engine = database.connect(database_settings)
        self._run = runs.Run(
            id=new_id(),
            host=socket.gethostname(),
            pid=os.getpid(),
            device=device,
            version=version("twofold"),
            model=upscaler.name,
            model_revision=upscaler.revision,
            lease=timedelta(seconds=worker.lease_seconds),
            max_lattice_pixels=capacity.largest_pixels,
        )
        log.identify(run_id=str(self._run.id))
        progress, holdings = Progress(worker.stall_seconds), Holdings()
        self._holdings, self._stop_seconds = holdings, worker.stop_seconds
        pipeline = Pipeline(
            run_id=self._run.id,
            engine=self._engine,
            for_claims=database.committing_each(database.connect(database_settings, in_order=True)),
            storage=OpenPlaces(places),
            own=places.own,
            upscaler=upscaler,
            capacity=capacity,
            worker=worker,
            limits=limits,
            progress=progress,
            holdings=holdings,
            watch=watch,
        )
        engine = Engine(
            upscaler,
            capacity,
            pinned_rung=worker.pinned_rung,
            holdings=holdings,
            progress=progress,
            watch=watch,
        )
        self._stages = Stages(pipeline, engine, self._break)
        self._heartbeat = Heartbeat(
            run_id=self._run.id,
            engine=self._engine,
            lease_seconds=worker.lease_seconds,
            progress=progress,
            holdings=holdings,
            draining=lambda: self._stages.stopping,
            drain=self._ask_to_stop,
            broken=self._break,
        )
        self._watchdog = Watchdog(
            lease_seconds=worker.lease_seconds,
            progress=progress,
            draining=lambda: self._stages.stopping,
            drain=self._ask_to_stop,
            broken=self._break,
            alive=self._alive,
        )

    def run(self) -> int:
        """Work until told to stop; everything in hand is settled or given back at the end.

        Returns:
            The process's exit status: not 0 if the supervisor shall start another one.
        """
        database.persevere(
            self._engine,
            lambda connection: runs.register(connection, self._run),
            waiting=lambda error: logger.warning("database_away", error=str(error.orig)),
        )
        # Celery takes the signal over once it is up.
        signal.signal(signal.SIGTERM, lambda *_: self._stages.stop())
        self._watchdog.start()
        self._heartbeat.start()
        self._stages.start()
        self._cold_start.end("ready")
        logger.info("ready", model=self._run.model, model_revision=self._run.model_revision)
        worker_shutting_down.connect(self._on_signal, weak=False)
        setup_logging.connect(lambda **_: None, weak=False)
        app = celery_app(self._broker)
        tasks.register(app, self._stages)
        _before_the_pool_stops(app, self._on_shutdown)
        has_failed = self._listen(app)
        self._celery_stops = True
        self._stages.stop()
        settled = self._stages.join(within=_STOPPING_SHARE * self._stop_seconds)
        if len(self._holdings):
            logger.warning("given_back", jobs=len(self._holdings))
        # Before the run ends: the next beat would take it for lost.
        self._heartbeat.stop()
        self._watchdog.stop()
        self._sign_off()
        logger.info("stopped")
        status = os.EX_TEMPFAIL if self._stages.is_exhausted or has_failed else 0
        if not settled:
            # Threads that wait for storage would keep the interpreter from ending.
            os._exit(status)
        return status

    def _listen(self, app: Celery) -> bool:
        """Run Celery until it ends; whether it did so without having been told."""
        exitcode: object = None
        try:
            # Not `app.worker_main`, which keeps to itself how it ended.
            celery = app.Worker(
                consumer_cls=Listener,
                hostname=f"twofold-{self._run.id}@{self._run.host}",
                quiet=True,
                without_mingle=True,
                without_gossip=True,
            )
            celery.start()
            exitcode = celery.exitcode
        except SystemExit as ended:
            exitcode = ended.code
        except Exception as error:  # noqa: BLE001 - crash-only: hand back, end, be replaced
            self._break(error)
        # Told from remote it ends with 0; told by a signal perhaps with another status.
        if has_failed := exitcode != 0 and not self._is_told_to_stop:
            logger.error("celery_failed", exitcode=exitcode)
        return has_failed

    def _sign_off(self) -> None:
        try:
            with self._engine.begin() as connection:
                runs.stop(connection, self._run.id)
        except DBAPIError as error:
            # Where nothing is in hand any more, the end of the lease says the same.
            logger.warning("not_signed_off", error=str(error.orig))

    def _on_signal(self, **_: object) -> None:
        self._is_told_to_stop = True
        self._on_shutdown()

    def _on_shutdown(self) -> None:
        self._celery_stops = True
        self._stages.stop()

    def _ask_to_stop(self) -> None:
        # Asked again and again until Celery has heard: a signal that comes while it starts stops
        # the stages only.
        if not self._celery_stops:
            os.kill(os.getpid(), signal.SIGTERM)

    def _alive(self) -> None:
        if self._liveness is not None:
            try:
                os.write(self._liveness, b".")
            except BrokenPipeError:
                # Nobody watches over this process any more, and nobody would replace it.
                logger.warning("supervisor_gone")
                self._ask_to_stop()

    def _break(self, error: BaseException) -> None:
        """Hand back what can be handed back, and end: whoever starts next has a clean slate."""
        logger.error("broken", error=repr(error), exc_info=error)
        # A database that is silent must not keep it from its end.
        self._watchdog.let_go()
        try:
            with self._engine.begin() as connection:
                runs.give_up(connection, self._run.id)
        except DBAPIError as failure:
            # The lease will end, too.
            logger.warning("not_handed_back", error=str(failure.orig))
        finally:
            os._exit(os.EX_SOFTWARE)


def main(
    arguments: Sequence[str] | None = None,
    *,
    watch: Watch = unwatched,
    upscaler: Upscaler | None = None,
) -> int:
    """Run one worker process; returns its exit status.

    Args:
        arguments: Of the command line.
        watch: Told of every verb that ends; for tests.
        upscaler: In place of the configured model; for tests.
    """
    parser = argparse.ArgumentParser(prog="twofold_worker.app")
    parser.add_argument("--liveness", type=int, help="descriptor to write a byte to while it lives")
    options = parser.parse_args(arguments)
    try:
        log.configure(LogSettings.load())
        process = Process(liveness=options.liveness, watch=watch, upscaler=upscaler)
    except ConfigError as error:
        sys.stderr.write(f"twofold worker: {error.message}\n")
        # The one may be of this process's GPU only, the other is of all processes.
        return os.EX_UNAVAILABLE if isinstance(error, DeviceUnseen) else os.EX_CONFIG
    return process.run()


if __name__ == "__main__":
    sys.exit(main())
