"""`twofold collect`: delete results that no row names, now."""

import sys
from datetime import timedelta
from typing import Annotated

import typer

from twofold_producer.cli.app import err
from twofold_producer.cli.door import database_settings
from twofold_producer.keeper.garbage import Collector
from twofold_schema import database
from twofold_schema.settings import KeeperSettings, StorageSettings
from twofold_schema.storage.places import OpenPlaces


def collect(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list them; nothing is deleted.")
    ] = False,
    older_than: Annotated[
        float | None,
        typer.Option(
            min=0, max=24 * 3650, help="Hours; TWOFOLD_COLLECT_AFTER_HOURS unless stated."
        ),
    ] = None,
) -> None:
    """Delete results that no row names, and list them. The keeper does the same by itself."""
    settings, places = KeeperSettings.load(), StorageSettings.load()
    hours = settings.collect_after_hours if older_than is None else older_than
    if older_than is None and not hours:
        raise typer.BadParameter(
            "TWOFOLD_COLLECT_AFTER_HOURS=0 says that nothing is collected; name --older-than"
        )
    dry_run = dry_run or settings.collect_dry_run
    engine = database.connect(database_settings())
    collector = Collector(
        engine,
        OpenPlaces(places),
        places.results_uri,
        grace=timedelta(hours=hours),
        dry_run=dry_run,
    )
    looked_at = count = size = 0
    with err.status(f"looking below {places.results} …", spinner_style="dim"):
        ended = False
        while not ended:
            look = collector.look()
            for entry in look.garbage:
                sys.stdout.write(f"{entry.uri}\n")
            looked_at, count = looked_at + look.looked_at, count + len(look.garbage)
            size, ended = size + sum(entry.size for entry in look.garbage), look.ended
    engine.dispose()
    did = "would be deleted" if dry_run else "deleted"
    err.print(
        f"{looked_at} objects of {places.results} are older than {hours:g} h; {count} of them, "
        f"{size / 1e6:.1f} MB, are named by no row and {did}.",
        markup=False,
        soft_wrap=True,
    )
