"""Every setting of the house, one small frozen class per part, checked when it is built.

Each class's docstring says what its variables mean; docs/04-settings.md is written from them.
"""

from twofold_schema.environment import Settings
from twofold_schema.settings.http import LONGEST_WAIT_SECONDS, ApiSettings, ClientSettings
from twofold_schema.settings.keeper import KeeperSettings, WebhookSettings
from twofold_schema.settings.limits import LimitSettings
from twofold_schema.settings.log import LogSettings
from twofold_schema.settings.servers import BrokerSettings, DatabaseSettings
from twofold_schema.settings.storage import StorageSettings
from twofold_schema.settings.worker import DEMO_MODEL, WorkerSettings

__all__ = [
    "DEMO_MODEL",
    "LONGEST_WAIT_SECONDS",
    "PARTS",
    "ApiSettings",
    "BrokerSettings",
    "ClientSettings",
    "DatabaseSettings",
    "KeeperSettings",
    "LimitSettings",
    "LogSettings",
    "StorageSettings",
    "WebhookSettings",
    "WorkerSettings",
]

PARTS: tuple[type[Settings], ...] = (
    DatabaseSettings,
    BrokerSettings,
    StorageSettings,
    LimitSettings,
    WorkerSettings,
    KeeperSettings,
    ApiSettings,
    ClientSettings,
    WebhookSettings,
    LogSettings,
)
