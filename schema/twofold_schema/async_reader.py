"""Reads of the database by coroutines, which hold no thread meanwhile."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import psycopg
from psycopg.rows import DictRow, dict_row
from sqlalchemy import Dialect, TextClause, make_url
from sqlalchemy.exc import DBAPIError

from twofold_schema.database import CONNECT_ARGS
from twofold_schema.settings import DatabaseSettings


class AsyncReader:
    """A connection of its own, made when it is needed, for one read at a time of one event loop.

    A read is one message of two statements, its bound and itself, which the server takes as one
    transaction: it leaves nothing behind in the session, and costs one trip, through pgbouncer too.

    Args:
        settings: Of the database.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        url = make_url(settings.database_url.get_secret_value())
        self._dialect = url.get_dialect()()
        _, self._address = self._dialect.create_connect_args(url)
        milliseconds = int(settings.database_timeout_seconds * 1000)
        self._bound = f"SET LOCAL statement_timeout = {milliseconds}; "
        self._connection: psycopg.AsyncConnection[DictRow] | None = None

    async def rows(self, statement: TextClause, parameters: Mapping[str, Any]) -> list[DictRow]:
        """What a statement finds that writes nothing.

        Args:
            statement: That only reads: it may be sent twice.
            parameters: Its values, by name.

        Raises:
            DBAPIError: The database is away, or answered with an error.
        """
        message = self._bound + _as_the_driver_takes_it(statement, self._dialect)
        kept = self._connection
        try:
            if kept is not None and not kept.closed:
                try:
                    return await _ask(kept, message, parameters)
                except psycopg.OperationalError:
                    # Unless it has just gone, or long ago without a word, it is not its fault.
                    if not kept.closed:
                        raise
            self._connection = await psycopg.AsyncConnection.connect(
                **self._address,
                **CONNECT_ARGS,
                autocommit=True,
                cursor_factory=psycopg.AsyncClientCursor,
                row_factory=dict_row,
            )
            return await _ask(self._connection, message, parameters)
        except psycopg.Error as error:
            raise DBAPIError.instance(message, None, error, psycopg.Error) from error

    async def close(self) -> None:
        """End the connection, if there is one."""
        if self._connection is not None:
            await self._connection.close()


@lru_cache
def _as_the_driver_takes_it(statement: TextClause, dialect: Dialect) -> str:
    return str(statement.compile(dialect=dialect))


async def _ask(
    connection: psycopg.AsyncConnection[DictRow], message: str, parameters: Mapping[str, Any]
) -> list[DictRow]:
    # The statements are constants of the ledger; values are quoted by the driver.
    cursor = await connection.execute(message.encode(), parameters)
    cursor.nextset()
    return await cursor.fetchall()
