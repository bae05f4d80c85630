"""What ends a stage: one line for what a user can mend, a traceback for what is the program's own fault."""

import errno
import getpass
import os
import socket
import subprocess
import sys
import tempfile

import pytest

from stages.core.base.errors import REMEDIES, StoppedError, UserError, known_errors_reported, run


def ending(program: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a `main` in a process of its own."""
    text = f"from stages.core.base.errors import *\ndef main():\n    {program}\nrun(main)"
    return subprocess.run([sys.executable, "-c", text], env={**os.environ, **variables}, capture_output=True)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_output_in_any_encoding_is_printed(encoding):
    ended = ending("print('τ – é'); raise UserError('Ω in a name')", PYTHONIOENCODING=encoding)
    expected = [text.encode(encoding, "backslashreplace") for text in ("τ – é\n", "error: Ω in a name\n")]
    assert [ended.stdout, ended.stderr, ended.returncode] == [*expected, 1]


def test_a_reader_that_ends_early_is_no_error():
    program = "for _ in range(10**5): print('line')"
    text = f"from stages.core.base.errors import run\ndef main():\n    {program}\nrun(main)"
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_system_without_posix_locks_is_named():
    """As Windows: its Python has no module fcntl. Stage `check` comes first."""
    text = "import runpy, sys\nsys.modules['fcntl'] = None\nrunpy.run_module('stages.check', run_name='__main__')"
    ended = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "error: this system has no POSIX file locks; use Linux or macOS, or WSL within Windows\n"


def ended(error: BaseException) -> str | int | None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run(main)
    return caught.value.code


def test_what_the_system_refuses_is_one_line():
    for number, remedy in REMEDIES.items():
        text = ended(OSError(number, os.strerror(number), "artifacts/a.npy"))
        assert text == f"error: artifacts/a.npy: {os.strerror(number)}; {remedy}"
    assert ended(OSError(errno.EMFILE, "Too many open files")).startswith("error: the system: Too many open files; ")
    assert ended(OSError(errno.ENOSPC, "x", "a")).startswith("error: no space left on the disk for this stage's files")
    assert ended(MemoryError("of 3 GiB\nmore")).startswith("error: not enough memory (of 3 GiB); ")
    assert ended(UserError("as it is")) == "error: as it is"
    assert ended(KeyboardInterrupt()) == 130


def test_what_was_asked_to_stop_has_an_exit_status_of_its_own(capfd):
    assert ended(StoppedError("stopped by SIGUSR1; the same command resumes at step 7")) == 75
    assert capfd.readouterr().err == "stopped by SIGUSR1; the same command resumes at step 7\n"


def test_what_was_asked_to_stop_says_so_even_to_nobody():
    program = "print('a line'); raise StoppedError('stopped')"
    text = f"from stages.core.base.errors import *\ndef main():\n    {program}\nrun(main)"
    reader, writer = os.pipe()
    os.close(reader)
    try:
        buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
        ended = subprocess.run([sys.executable, "-c", text], env=buffered, stdout=writer, stderr=writer)
        assert ended.returncode == 75
    finally:
        os.close(writer)


def test_what_torch_cannot_compile_is_one_line():
    from torch._dynamo.exc import TorchDynamoException

    failed = TorchDynamoException("backend='inductor' raised:\nRuntimeError: Python.h: No such file\nand more")
    text = ended(failed)
    assert text.startswith("error: torch.compile fails (") and "Python.h" in text
    assert text.endswith("); set COMPILE=0 to go without it") and "\n" not in text


@pytest.mark.parametrize("error", [KeyError("a"), FileNotFoundError(errno.ENOENT, "x", "y"), AssertionError()])
def test_the_programs_own_faults_keep_their_traceback(error):
    with pytest.raises(type(error)):
        run(lambda: (_ for _ in ()).throw(error))


def test_a_user_without_a_name_gets_one(monkeypatch):
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    names = []
    run(lambda: names.append(getpass.getuser()))
    assert names == [f"uid_{os.getuid()}"]
    monkeypatch.setenv("USER", "ada")
    monkeypatch.setenv("LOGNAME", "")
    run(lambda: names.append(getpass.getuser()))
    assert names[1:] == ["ada"]  # who has a name keeps it


def test_a_folder_for_temporary_files_that_is_too_long_for_sockets_is_named(tmp_path, monkeypatch):
    """As SLURM's folders for each job may be: the address of a Unix socket has at most 107 bytes."""
    folder = tmp_path / ("a" * 85)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with (
        pytest.raises(UserError, match=f"^TMPDIR={folder} is too long a path for sockets; set it to a shorter folder$"),
        known_errors_reported(),
        socket.socket(socket.AF_UNIX) as opened,
    ):
        opened.bind(str(folder / ("b" * 60)))
