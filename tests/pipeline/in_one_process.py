"""Run in this process, one after another, the commands that `dvc repro TARGET` would run in a fresh clone.

    python in_one_process.py TARGET

torch and timm are imported once, and nothing is copied into DVC's cache: at the paper's scale both take longer than the
stages do.
"""

import runpy
import shlex
import sys
from pathlib import Path

from dvc.repo import Repo
from dvc.repo.reproduce import plan_repro

if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    with Repo() as repo:
        commands = [stage.cmd for stage in plan_repro(repo.index.graph, repo.stage.collect(sys.argv[1]))]
    for command in commands:
        print(command, flush=True)
        python, option, module, *arguments = shlex.split(command)
        assert (python, option) == ("python", "-m")
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
