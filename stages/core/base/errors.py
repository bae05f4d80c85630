"""What a user can mend is one clear line and a non-zero exit, never a traceback."""

import errno
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # EFBIG: beyond a limit on the size of files
FULL_TEXT = re.compile(  # Rust; numpy, of a contiguous array and of another
    rf"os error ({'|'.join(map(str, sorted(FULL)))})\)|requested and \d+ written|problem writing element \d+ to file"
)


class UserError(Exception):
    """A fault that the user can mend; its text says what is wrong, where, and what to do."""

    def __init__(self, message: str) -> None:
        # A DataLoader worker's error is raised again in the main process with the worker's traceback
        # as its text; the line that matters is the last one.
        marker = f"{__name__}.{type(self).__name__}: "
        super().__init__(message.rsplit(marker, 1)[-1].strip())


class UnreadableImageError(UserError):
    """An image file is there, but its content cannot be decoded."""


@contextmanager
def full_disk_reported(place: Path | str) -> Iterator[None]:
    """Turn the many errors of a full disk into one `UserError` that names what was being written."""
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number in FULL or FULL_TEXT.search(str(error)):
            raise UserError(f"no space left on the disk for {place}; free some and give the command again") from None
        raise


def run(main: Callable[[], None]) -> None:
    """Run a stage's `main`; a `UserError` ends the process with its one line and exit status 1."""
    try:
        with full_disk_reported("this stage's files"):
            main()
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
