"""Whose fault a database error is: the database's, which may pass, or the row's, which will not."""

from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from experiments.errors import RatchetError, RowRefused, Unavailable

_PASSING = {"08", "25", "28", "3D", "40", "53", "55", "57", "58", "F0", "XX"}
"""PostgreSQL's SQLSTATE classes about the server, the connection or a lock, not about what was sent."""
_SQLITE_ERROR = 1
"""SQLite's code for a statement that is wrong in itself."""


def outage(error: BaseException) -> bool:
    """Whether the same work may succeed later: lost connection, server down, disk full, lock not granted, deadlock."""
    if isinstance(error, (OSError, PoolTimeout)):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state[:2] in _PASSING
    if getattr(error.orig, "sqlite_errorcode", None) == _SQLITE_ERROR:
        return False
    # A bare DatabaseError is what SQLite reports of a damaged file.
    return isinstance(error, (OperationalError, InterfaceError)) or type(error) is DatabaseError


def translated(error: Exception) -> Exception:
    """What a caller is told: our own errors and programming errors as they are, the database's as ours."""
    if isinstance(error, RatchetError):
        return error
    if outage(error):
        return Unavailable(f"the database cannot be used: {_first_line(error)}")
    if isinstance(error, (DBAPIError, OverflowError, UnicodeError)):
        return RowRefused(f"the database refused this row: {_first_line(error)}")
    return error


def _first_line(error: Exception) -> str:
    return (str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__])[0]
