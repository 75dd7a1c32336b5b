"""Everything that is kept: all SQL of the project, in functions named by intent that return domain values.

Law of this room: every function takes an open `sqlalchemy.Connection` first and is synchronous; it never begins,
commits or rolls back, so that a caller composes several into one transaction. Async code runs them through
`store.read(function, *arguments)` and `store.write(function, *arguments)`. Hot rows go through `store.journal`.
"""

from sqlalchemy import Connection

from server.store.journal import Journal, Slot
from server.store.store import Store, read_only

__all__ = ["Connection", "Journal", "Slot", "Store", "read_only"]
