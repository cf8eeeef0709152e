"""The keeper, and the webhooks that it delivers."""

from typing import Annotated

from pydantic import Field

from twofold_schema import egress
from twofold_schema.egress import Egress
from twofold_schema.environment import Settings
from twofold_schema.settings.reading import Seconds, readable


class KeeperSettings(Settings):
    """The keeper.

    Attributes:
        keeper_seconds: How often each duty is done. While much is claimed, what claims read is
            added up five times as often.
        seal_after_hours: A submission to which nothing was added for so long, because its producer
            died, is sealed.
        collect_after_hours: The age from which results that no row names are deleted; 0 for never.
        collect_every_seconds: The pause between two rounds through all results.
        collect_dry_run: Only log what would be deleted.
        history_after_hours: How long a job that has ended stays among those at work, before it is
            moved to the history.
        jobs_days: How long jobs are kept after they have ended, in whole weeks of UTC after the
            week in which they did.
        events_days: How long events are kept, in whole days of UTC after the day that they are of.
        rollup_days: How long it is kept what happened in each minute.
    """

    keeper_seconds: Seconds = 1.0
    seal_after_hours: Annotated[float, Field(gt=0, le=24 * 3650)] = 24.0
    collect_after_hours: Annotated[float, Field(ge=0, le=24 * 3650)] = 24.0
    collect_every_seconds: Seconds = 3600.0
    collect_dry_run: bool = False
    history_after_hours: Annotated[float, Field(ge=0, le=24 * 3650)] = 1.0
    jobs_days: Annotated[int, Field(ge=1, le=3650)] = 90
    events_days: Annotated[int, Field(ge=1, le=3650)] = 7
    rollup_days: Annotated[float, Field(gt=0, le=3650)] = 90.0


class WebhookSettings(Settings):
    """Webhooks: where they may go, and how they are sent.

    Attributes:
        webhook_allow: Networks, comma-separated, such as `10.1.0.0/16`, in which receivers may be
            though their addresses are not the world's.
        webhook_http: Whether a receiver may be reached without TLS.
        webhook_ports: Ports that receivers may have, `443,8000-8999`.
        webhook_timeout_seconds: What one try may take in all, up to the answer's end.
        webhook_threads: Tries that one keeper has under way at once.
        webhook_days: How long a delivery is kept after its end, with the log of its tries.
    """

    webhook_allow: Annotated[str, readable(egress.networks)] = ""
    webhook_http: bool = False
    webhook_ports: Annotated[str, readable(egress.ports)] = "443,8443"
    webhook_timeout_seconds: Annotated[float, Field(gt=0, le=30)] = 15.0
    webhook_threads: Annotated[int, Field(ge=2, le=200)] = 32
    webhook_days: Annotated[float, Field(gt=0, le=3650)] = 7.0

    @property
    def egress(self) -> Egress:
        """What is open to webhooks."""
        return Egress(
            networks=egress.networks(self.webhook_allow),
            ports=egress.ports(self.webhook_ports),
            plain=self.webhook_http,
        )
