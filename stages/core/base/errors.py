"""Whatever a user can mend ends in one clear line and a non-zero exit status, never in a traceback."""

import errno
import getpass
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # EFBIG: beyond a limit on the size of files
FULL_TEXT = re.compile(  # from Rust; from numpy, of a contiguous array and of another
    rf"os error ({'|'.join(map(str, sorted(FULL)))})\)|requested and \d+ written|problem writing element \d+ to file"
)
REMEDIES = {  # for errors of the operating system that are no fault of the program
    errno.EACCES: "change its permissions, or its owner",
    errno.EPERM: "change its permissions, or its owner",
    errno.EROFS: "make it writable, or work on another file system",
    errno.EMFILE: "raise the limit on open files with `ulimit -n`",
    errno.ENFILE: "close other programs, or raise the system's limit on open files",
    errno.EIO: "check the disk",
    errno.ESTALE: "the network file system lost it; give the command again",
}
COMPILER_ERRORS = {"torch._dynamo.exc", "torch._inductor.exc"}  # modules of torch.compile's exceptions


class UserError(Exception):
    """A fault that the user can mend; its text says what is wrong, where, and what to do."""

    def __init__(self, message: str) -> None:
        # A DataLoader worker's error is raised again in the main process with the worker's traceback
        # as its text; the line that matters is the last one.
        marker = f"{__name__}.{type(self).__name__}: "
        super().__init__(message.rsplit(marker, 1)[-1].strip())


class UnreadableImageError(UserError):
    """An image file exists, but its content cannot be decoded."""


class StoppedError(UserError):
    """The command was asked to stop, and nothing that it saved is lost: given again, it goes on.

    It ends with exit status 75 (EX_TEMPFAIL), so that a job script can tell it from a failure and submit it again.
    """


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


@contextmanager
def known_errors_reported() -> Iterator[None]:
    """Turn errors of the system and of torch.compile that a user can mend into `UserError`."""
    try:
        with full_disk_reported("this stage's files"):
            yield
    except MemoryError as error:
        raise UserError(f"not enough memory ({_line(error)}); close other programs, or use a smaller scale") from None
    except OSError as error:
        if "AF_UNIX path too long" in str(error):
            folder = tempfile.gettempdir()
            raise UserError(f"TMPDIR={folder} is too long a path for sockets; set it to a shorter folder") from None
        if error.errno not in REMEDIES:
            raise
        raise UserError(f"{_file(error)}: {error.strerror}; {REMEDIES[error.errno]}") from None
    except Exception as error:
        if not any(kind.__module__ in COMPILER_ERRORS for kind in type(error).__mro__):
            raise
        raise UserError(f"torch.compile fails ({_line(error)}); set COMPILE=0 to go without it") from None


def _file(error: OSError) -> str:
    name = error.filename2 or error.filename
    return "the system" if name is None else os.fsdecode(name) if isinstance(name, str | bytes) else f"file {name}"


def _line(error: Exception) -> str:
    """The first line of an error's text that is more than a heading."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line and not line.endswith("raised:")), type(error).__name__)


def run(main: Callable[[], None]) -> None:
    """Run the `main` of a stage or tool; a `UserError` ends the process with its one line and exit status 1.

    A `StoppedError` ends it with exit status 75.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what latin-1 or ASCII cannot hold is escaped, instead of an error
            stream.reconfigure(errors="backslashreplace")
    _name_user()
    try:
        if find_spec("fcntl") is None:
            raise UserError("this system has no POSIX file locks; use Linux or macOS, or WSL within Windows")
        with known_errors_reported():
            main()
            sys.stdout.flush()
    except StoppedError as stopped:
        with suppress(OSError):  # the terminal may be gone
            print(stopped, file=sys.stderr, flush=True)
        _discard_what_cannot_be_printed()
        sys.exit(os.EX_TEMPFAIL)
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # the reader of the output has ended, as `head` does
        _discard_what_cannot_be_printed()
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _discard_what_cannot_be_printed() -> None:
    """Drop output to a reader or terminal that is gone; Python's own try, at its end, would change the exit status."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _name_user() -> None:
    """Name a user whom the system does not know, as in containers: libraries name caches by user, and fail without."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid_{os.getuid()}"
