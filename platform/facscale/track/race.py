"""Which of MLflow's errors only mean that another sender was a moment faster.

MLflow's store reads what is there and then inserts what is missing. Of two senders that do so at the same moment the
database lets one in; the other gets the database's complaint, under the very error code (BAD_REQUEST, HTTP 400) of what
a server will never take. Sent again, the record finds what the other one wrote, and all is well.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from mlflow.exceptions import MlflowException

TRIES = 8
SHORTEST_S, LONGEST_S = 0.05, 2.0
SIGNS = re.compile(
    r"sqlalche\.me/e/\w+/gkpj"  # SQLAlchemy's number of an IntegrityError, whichever database and driver had it
    r"|expected to (?:update|delete) \d+ row|has been deleted, or its row is otherwise not present"  # a row was deleted
    r"|deadlock"  # PostgreSQL, MySQL, SQL Server: one of two transactions had to go
    r"|could not serialize access"  # PostgreSQL, above its usual isolation level
    r"|database (?:table )?is locked"  # SQLite
    r"|giving up after \d+ attempts|within \d+ retries",  # MLflow's own tries at a version, and at tags
    re.IGNORECASE,
)
REMOVED = "RESOURCE_DOES_NOT_EXIST"  # a duplicate, which another sender removed while we held it


def is_race(error: MlflowException) -> bool:
    """Whether the same request may well succeed now."""
    return error.error_code == REMOVED or SIGNS.search(str(error)) is not None


def pauses() -> Iterator[float]:
    """Seconds to wait before each further try: ever longer, and by chance, so that rivals do not meet again."""
    for number in range(TRIES - 1):
        yield random.uniform(0, min(LONGEST_S, SHORTEST_S * 2**number))
