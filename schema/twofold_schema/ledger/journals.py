"""Journals: tables that writers only add to, so that none waits for another, and that are folded.

A fold takes the entries out that it sees and adds them up elsewhere. It notes the transaction
before which none is left, and nobody looks behind it: where a snapshot that somebody holds open
keeps vacuum away, the dead entries of no more than one fold are passed over.
"""

# As a number that SQLAlchemy has a type for.
_OLDEST_OPEN = "CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"


def not_folded(journal: str) -> str:
    """The condition that an entry may be there still.

    Of this server no note can be of the future: one that was restored from another does not count.
    """
    return f"""
        xid >= coalesce((SELECT xid FROM folds
                         WHERE journal = '{journal}' AND xid <= {_OLDEST_OPEN}), 0)
    """  # noqa: S608 - of the names of this package's journals


def note_fold(journal: str, everything: str = "true") -> str:
    """The statement that notes a fold, as a part of the one that takes the entries out.

    Args:
        journal: Its name.
        everything: A condition that no entry was left that the statement sees.
    """
    return f"""
        INSERT INTO folds (journal, xid) SELECT '{journal}', {_OLDEST_OPEN} WHERE {everything}
        ON CONFLICT (journal) DO UPDATE SET xid = excluded.xid
    """
