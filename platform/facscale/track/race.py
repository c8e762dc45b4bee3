"""Recognises those MLflow errors that only mean that another sender was a moment faster.

MLflow's store reads what is there and then inserts what is missing. When two senders do so at the same moment, the
database accepts one of them; the other receives the database's error, under the same error code (BAD_REQUEST, HTTP 400)
as a record that the server will never accept. When the record is sent again, the server finds what the first sender
wrote, and the request succeeds.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from mlflow.exceptions import MlflowException

MAX_ATTEMPTS = 8
BASE_PAUSE_S, MAX_PAUSE_S = 0.05, 2.0
RACE_MESSAGES = re.compile(
    r"sqlalche\.me/e/\w+/gkpj"  # SQLAlchemy's code of an IntegrityError, for every database and driver
    r"|expected to (?:update|delete) \d+ row|has been deleted, or its row is otherwise not present"  # a row was deleted
    r"|deadlock"  # PostgreSQL, MySQL, SQL Server: one of two transactions was rolled back
    r"|could not serialize access"  # PostgreSQL, above its usual isolation level
    r"|database (?:table )?is locked"  # SQLite
    r"|giving up after \d+ attempts|within \d+ retries",  # MLflow's own retries, for model versions and for tags
    re.IGNORECASE,
)
DELETED = "RESOURCE_DOES_NOT_EXIST"  # the run was a duplicate, which another sender deleted meanwhile


def is_race(error: MlflowException) -> bool:
    """Whether the same request may well succeed if it is sent again now."""
    return error.error_code == DELETED or RACE_MESSAGES.search(str(error)) is not None


def generate_pauses() -> Iterator[float]:
    """Yield the pause in seconds before each retry: random below a doubling limit, so that rivals do not meet again."""
    for number in range(MAX_ATTEMPTS - 1):
        yield random.uniform(0, min(MAX_PAUSE_S, BASE_PAUSE_S * 2**number))
