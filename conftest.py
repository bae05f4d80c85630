"""How a run of the tests is laid out, from whichever folder of the repository it is started."""

import os
import signal
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parent
MAX_WORKERS = 8  # each holds torch and timm, half a GiB
LONG = ("train", "runtime", "models", "tools")  # after the pipeline's, the folders whose tests take longest
NO_BROWSER = "no Chromium here"  # begins the reason for which tests in a browser are skipped
collect_ignore = ["data", "weights"]  # of images, perhaps a million, and of weights

# Processes that tests start import this repository's code, too, whichever clone is installed.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

hypothesis.settings.register_profile("default", max_examples=25, deadline=None, derandomize=True)
hypothesis.settings.register_profile("nightly", max_examples=200, deadline=None, print_blob=True)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Without arguments, run all tests from a folder that holds none, as from the repository's own."""
    here = config.invocation_params.dir
    if config.args_source is pytest.Config.ArgsSource.INVOCATION_DIR and ROOT / "tests" not in (here, *here.parents):
        config.args = [str(ROOT / "tests")]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --nightly."""
    parser.addoption(
        "--nightly",
        action="store_true",
        help="run the tests marked nightly as well, and 200 examples of each property (profile nightly of hypothesis)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose hypothesis' profile (HYPOTHESIS_PROFILE, or the one that suits the run); let SIGINT be received.

    A shell starts what it puts in the background (`pytest &`) with SIGINT ignored, which every child process inherits:
    tests that send it would wait for ever, or find a command that nothing has stopped.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    name = os.environ.get("HYPOTHESIS_PROFILE") or ("nightly" if config.getoption("nightly") else "default")
    hypothesis.settings.load_profile(name)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """How many workers `-n auto` starts: one per usable core; none for what one process has to run anyway."""
    one_file = len(config.args) == 1 and ".py" in config.args[0]
    alone = one_file or config.option.markexpr == "gpu" or any("benchmarks" in name for name in config.args)
    if alone or "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return 0 if alone else None  # None leaves the choice to pytest-xdist, which reads the variable
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_WORKERS)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only a nightly run holds; put the files that take longest first, so that workers end together."""
    if not config.getoption("nightly") and "nightly" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("nightly")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    pipeline = {item.path for item in items if item.get_closest_marker("pipeline")}

    def place(item: pytest.Item) -> tuple[bool, int]:
        folder = item.path.parent.name
        return item.path not in pipeline, LONG.index(folder) if folder in LONG else len(LONG)

    items.sort(key=place)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say in the last line which tests did not run for want of a browser: one skipped line among others is not seen."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = [one for one in reporter.stats.get("skipped", []) if NO_BROWSER in str(one.longrepr)] if reporter else []
    if skipped:
        text = f"WARNING: {len(skipped)} tests of the report's pages did not run, since there is {NO_BROWSER}"
        reporter.write_line(text, red=True, bold=True)
