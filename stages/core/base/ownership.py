"""Whose a temporary file or a lock is: of this process, of another one here, or of another container or machine.

Process ids mean something only within one PID namespace of one running system. Containers and nodes that share a
volume see each other's files, so the names of temporary files and claims carry more than a process id.
"""

import errno
import hashlib
import os
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO

from stages.core.base.errors import UserError

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
PID_NAMESPACE = Path("/proc/self/ns/pid")
UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}


@cache
def machine() -> str:
    """What identifies this machine since its last start, equal in all its containers; the host name where unknown."""
    with suppress(OSError):
        return _digest(BOOT_ID.read_text(encoding="ascii").strip())
    return _digest(socket.gethostname())


@cache
def process_space() -> str:
    """What identifies the processes that see each other's ids: host name, start of the system, PID namespace."""
    with suppress(OSError):
        return _digest(socket.gethostname(), machine(), PID_NAMESPACE.readlink().as_posix())
    return _digest(socket.gethostname(), machine())


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def is_running(process: int) -> bool:
    """Whether a process of this process space runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    with suppress(OSError):  # a zombie, as killed processes stay in a container without an init process
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def try_lock(path: Path) -> IO[str] | None:
    """Lock a file until the returned object is closed or the process ends; None where another process holds it.

    Raises:
        UserError: the file system has no locks.
    """
    import fcntl  # here: where a system has none, `errors.run` says so in one line

    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        file.close()
        if error.errno not in UNSUPPORTED:
            raise
        raise UserError(
            f"{path} cannot be locked ({error.strerror}): its file system has no file locks; keep the project, or a "
            "folder that its .ckpt links to, on another file system"
        ) from None
    return file
