"""What a user can mend is one clear line and a non-zero exit, never a traceback."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """A fault that the user can mend; its text says what is wrong, where, and what to do."""

    def __init__(self, message: str) -> None:
        # A DataLoader worker's error is raised again in the main process with the worker's traceback
        # as its text; the line that matters is the last one.
        marker = f"{__name__}.{type(self).__name__}: "
        super().__init__(message.rsplit(marker, 1)[-1].strip())


class UnreadableImageError(UserError):
    """An image file is there, but its content cannot be decoded."""


def run(main: Callable[[], None]) -> None:
    """Run a stage's `main`; a `UserError` ends the process with its one line and exit status 1."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
