"""Inside the caller's own transaction: his session, and what happens once it has committed."""

from collections.abc import Callable

from sqlalchemy import Connection, event
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.orm import Session, SessionTransaction

from twofold_schema.errors import UnsupportedSession

#: Where a session keeps what is to be done once it has committed.
_AFTER_COMMIT = "twofold.after_commit"


def connection_of(session: Session) -> Connection:
    """The connection of the session's transaction, its pending changes flushed.

    Raises:
        UnsupportedSession: It is no synchronous session on psycopg 3.
    """
    if not isinstance(session, Session):
        raise UnsupportedSession
    try:
        dialect = session.get_bind().dialect
    except UnboundExecutionError:
        raise UnsupportedSession(
            "This session has no engine of its own; pass one that is bound to the database of "
            "the job table."
        ) from None
    if (dialect.name, dialect.driver, dialect.is_async) != ("postgresql", "psycopg", False):
        raise UnsupportedSession(
            f"This session talks to {dialect.name} over {dialect.driver}; pass a synchronous "
            "Session whose engine is postgresql+psycopg (psycopg 3)."
        )
    session.flush()
    return session.connection()


def after_commit(session: Session, act: Callable[[], None]) -> None:
    """Call `act` once the session's outermost transaction has committed; never after a rollback."""
    session.info.setdefault(_AFTER_COMMIT, []).append(act)
    # They stay: SQLAlchemy takes no listener away while it calls them.
    if not event.contains(session, "after_commit", _committed):
        event.listen(session, "after_commit", _committed)
        event.listen(session, "after_transaction_end", _ended)


def _committed(session: Session) -> None:
    # Also told of savepoints that are released: then the transaction goes on.
    if not session.in_nested_transaction():
        for act in session.info.pop(_AFTER_COMMIT, ()):
            act()


def _ended(session: Session, transaction: SessionTransaction) -> None:
    # However it ended: a session that is closed says nothing of a rollback.
    if transaction.parent is None:
        session.info.pop(_AFTER_COMMIT, None)
