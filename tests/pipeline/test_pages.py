"""The pages: their links and paths lead somewhere, their commands exist, their tables say what the code says."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from dvc.cli.parser import get_main_parser
from dvc.repo import Repo

from stages.tools import readme
from stages.tools.compose import GROUPS, composed
from stages.tools.compose import options as options_of

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("stages", "tests", "reports", "notebooks")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "reports/performance.md", "reports/claims.md")),
    # A model's card is of the run that made it.
    *(page for folder in FOLDERS for page in sorted((ROOT / folder).rglob("README.md")) if "models" not in page.parts),
]
# Files that runs, studies, images and weights consist of; they are in no folder of the repository.
ELSEWHERE = {"curves.csv", "predictions.npy", "config.json", "model.safetensors", "record.json", "train.tar", "val.tar"}
ELSEWHERE |= {"kept_blocks.csv", "speed.json"}  # of runs that keep models during training; beside checkpoints
ELSEWHERE |= {"weights.json"}  # of runs with timm's backbones
ELSEWHERE |= {"sep_thresholds.csv"}  # of the release
WRITTEN = {"reports/reference/released.json"}  # by a command, where the authors' students were evaluated
IGNORED = ("", "artifacts", ".ckpt", ".git", ".venv")
PLACEHOLDER = re.compile(r"\b[A-Z]{3,}\b|\*|…")
OTHERS = (
    *("SLURM_", "MASTER_", "RANK", "LOCAL_", "WORLD_SIZE", "TORCHELASTIC_"),
    *("DVC_ROOT", "CUDA_VISIBLE_DEVICES", "CC", "CXX", "CI"),
)
# The blocks that read what runs write.
OF_RESULTS = {"figure", "claims", "glance", "every_claim", "study", "results", "scales"}
BETWEEN_PROCESSES = {"FRESH_START", "SUBMITIT_EXECUTOR"}  # what launcher or submitit tell workers, and no user sets

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


@cache
def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str, language: str = "") -> list[str]:
    found = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return [content for its_language, content in found if its_language == language]


def inline(text: str) -> list[str]:
    """What stands in single backticks."""
    prose = re.sub(r"^ *```.*?^ *```$|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]


def commands(text: str) -> Iterator[list[str]]:
    """The commands of a page, in words, without the environment variables before them."""
    lines = [line for block in blocks(text) for line in block.splitlines()] + inline(text)
    for line in lines:
        for command in re.split(r" && |; ", line):
            words = shlex.split(command, comments=True) if command.count("'") % 2 == 0 else []
            while words and re.match(r"[A-Z_]+=", words[0]):
                del words[0]
            if words:
                yield words


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no heading {title!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of the body of every table, line by line."""
    lines = [line.strip() for line in text.splitlines()]
    rules = [set(line) <= set("| -") and "-" in line for line in [*lines, ""]]
    body = [line for at, line in enumerate(lines) if line.startswith("|") and not (rules[at] or rules[at + 1])]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in body]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives headings."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    named = set(re.findall(r'<a id="([^"]+)">', text_of(page)))
    return named | {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_tracked(path: Path, committed: Path) -> bool:
    """Whether a path is here; of reports, which an unfinished run may lack, whether the last commit has it."""
    reports = path.is_relative_to(ROOT / "reports")
    return path.exists() or (reports and (committed / path.relative_to(ROOT)).exists())


@by_page
def test_links_lead_somewhere(page: Path, committed: Path) -> None:
    text = text_of(page)
    for target in re.findall(r"\]\(([^)]+)\)", text) + re.findall(r'\bsrc(?:set)?="([^"]+)"', text):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert is_tracked(file, committed), target
        assert not anchor or anchor in anchors(file), target


def is_there(name: str, page: Path, committed: Path) -> bool:
    """Whether a path that a page names exists: from its folder, the repository's, or among the results."""
    places = (page.parent, ROOT, ROOT / "reports", ROOT / "reports/results")
    return any(is_tracked(place / name, committed) for place in places)


@by_page
def test_paths_that_are_named_exist(page: Path, committed: Path) -> None:
    """Up to the first placeholder; what a command writes, what git ignores and what only runs hold need not be here."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    named = [word for words in commands(text_of(page)) for before, word in pairwise(["", *words]) if before != "--out"]
    for name in named:
        parts = name.rstrip("/").split("/")
        if parts[0] == "artifacts" and len(parts) > 1:
            assert parts[1] in {*pipeline, "html"} or PLACEHOLDER.search(parts[1]), name
        elif parts[0] in IGNORED or name.startswith(".dvc/tmp"):
            continue
        elif len(parts) > 1 and (ROOT / parts[0]).exists() and re.fullmatch(r"[\w./*-]+", name):
            if name in WRITTEN:
                continue
            known = next((at for at, part in enumerate(parts) if PLACEHOLDER.search(part)), len(parts))
            assert is_there("/".join(parts[:known]), page, committed), name
        elif re.fullmatch(r"[\w-]+\.(py|yaml|csv|json|md|txt|toml|cff|lock|safetensors|npy|tar)", name):
            assert PLACEHOLDER.search(name) or name in ELSEWHERE or is_there(name, page, committed), name


@by_page
def test_commands_of_the_project_exist(page: Path) -> None:
    for words in commands(text_of(page)):
        if words[:2] != ["python", "-m"] or not words[2].startswith("stages."):
            continue
        module = ROOT / Path(*words[2].split(".")).with_suffix(".py")
        assert module.is_file(), words
        source = module.read_text(encoding="utf-8")
        for option in (word for word in words if word.startswith("--")):
            assert f'"{option}"' in source or f'"{option[2:]}"' in source, words
        if words[2] == "stages.tools.readme":
            assert {*words[3:]} <= {*readme.BLOCKS, "[BLOCK]"}, words
        if words[2] == "stages.tools.compose" and "[" not in "".join(words):
            assert composed(*words[3:])


@by_page
def test_commands_of_dvc_exist_and_name_stages(page: Path) -> None:
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    parser = get_main_parser()
    for words in commands(text_of(page)):
        if words[0] != "dvc" or len(words) == 1:
            continue
        asked = parser.parse_args(words[1:])  # raises SystemExit at what DVC does not know
        for target in getattr(asked, "targets", None) or []:
            if "/" not in target:
                assert target.partition("@")[0] in pipeline, words


def overrides(text: str) -> Iterator[list[str]]:
    """The groups and keys of the configuration that a page's commands set, command by command."""
    for words in commands(text):
        found = [words[index + 1] for index, word in enumerate(words) if word == "-S"]
        key = words[0].partition("=")[0]
        if not found and len(words) == 1 and "=" in words[0] and key.partition(".")[0] in GROUPS:
            found = words
        yield [one for one in found if "GROUP" not in one and "KEY" not in one]


@by_page
def test_groups_options_and_keys_exist(page: Path) -> None:
    external = ["dataset=folder", "dataset.classes=10", "dataset.image_size=8"]
    for given in dict.fromkeys(map(tuple, overrides(text_of(page)))):
        chosen = []
        for key, _, values in (one.partition("=") for one in given):
            several = key in GROUPS and not values.startswith("[")  # each a run of its own
            first, *others = values.split(",") if several else [values]
            chosen.append(f"{key}={first}")
            for option in others:
                assert option in options_of(key), given
        needs_images = any(one.startswith(("dataset.unreadable", "dataset.held_out")) for one in given)
        assert not chosen or composed(*(external if needs_images else []), *chosen)


def test_the_readme_is_short() -> None:
    read = re.sub(r"<!--.*?-->", "", text_of(ROOT / "README.md"))  # markers of generated blocks do not show
    assert len([word for word in read.split() if re.search(r"\w", word)]) <= 1000  # the lines of tables are no words


@pytest.mark.parametrize("block", [name for name in readme.BLOCKS if name != "promises"])
def test_generated_blocks_are_up_to_date(block: str, committed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the code that is here, and the committed results; or the results that are here, where a page shows them."""
    page = readme.BLOCKS[block][0]
    text = text_of(ROOT / page)
    if block in OF_RESULTS:
        monkeypatch.chdir(committed)
        if text == readme.with_blocks(page, text, [block]):
            return
    monkeypatch.chdir(ROOT)
    assert text == readme.with_blocks(page, text, [block]), f"run: python -m stages.tools.readme {block}"


def test_the_list_of_wings_is_the_wings() -> None:
    core = ROOT / "stages/core"
    listed = re.split(r"^### ", text_of(core / "README.md"), flags=re.MULTILINE)[1:]
    assert {one.partition("\n")[0] for one in listed} == {path.parent.name for path in core.glob("*/__init__.py")}
    for one in listed:
        wing = core / one.partition("\n")[0]
        modules = {file.relative_to(wing).with_suffix("").as_posix() for file in wing.rglob("*.py")} - {"__init__"}
        named = [codes(row[0])[0] for row in rows(one)]
        assert sorted(named) == sorted(re.sub("__init__$", "", module) for module in modules), wing.name


def edges_of_diagram(diagram: str) -> set[tuple[str, str]]:
    edges: set[tuple[str, str]] = set()
    for line in diagram.splitlines()[1:]:
        chain = [part.split(" & ") for part in re.split(r" -\.?-> ", line.strip())]
        for before, after in pairwise(chain):
            edges |= {(one.strip(), other.strip()) for one in before for other in after}
    return edges


def test_the_diagram_is_the_pipeline(tmp_path: Path) -> None:
    """Its edges are those of DVC's graph, with all stages: external images and a backbone beside the teacher."""
    backbones = "analysis.backbones=[teacher,deit_small_patch16_224]"
    params = yaml.safe_load(composed(backbones, "analysis.classifiers=[teacher,deit_small_patch16_224]"))
    params["dataset"]["watch"] = ["images"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        follows = {tuple(one.name.partition("@")[0] for one in pair) for pair in repo.index.graph.reverse().edges}
    (diagram,) = blocks(text_of(ROOT / "README.md"), "mermaid")
    assert edges_of_diagram(diagram) == {edge for edge in follows if edge[0] != edge[1]}


def variables_read() -> Counter[str]:
    """The environment variables that the code names: looked up one by one, or the fields of a settings class."""
    found: Counter[str] = Counter()
    kernels = ROOT / "stages/core/report"  # sets variables for the kernels of notebooks, and reads none
    for file in (one for one in (ROOT / "stages").rglob("*.py") if not one.is_relative_to(kernels)):
        source = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)) if "os.environ" in source or "BaseSettings" in source else ():
            if isinstance(node, ast.ClassDef) and any("BaseSettings" in ast.unparse(base) for base in node.bases):
                fields = [line.target for line in node.body if isinstance(line, ast.AnnAssign)]
                found.update(field.id.upper() for field in fields if isinstance(field, ast.Name))
            if isinstance(node, ast.Constant) and re.fullmatch(r"[A-Z]+(_[A-Z]+)*", str(node.value)):
                found[str(node.value)] += 1
            if isinstance(node, ast.keyword) and node.arg == "metavar" and isinstance(node.value, ast.Constant):
                found[str(node.value.value)] -= 1  # of a command's help
            if (
                isinstance(node, ast.Subscript)
                and isinstance(node.ctx, ast.Store)
                and "environ" in ast.unparse(node.value)
            ):
                found[ast.unparse(node.slice).strip("'")] -= 1  # set, not read
    return +found


def test_the_environment_variables_are_those_that_the_code_reads() -> None:
    text = section(text_of(ROOT / "stages/core/train/README.md"), "Environment variables")
    own, others = {codes(row[0])[0] for row in rows(text)}, set(codes(text.partition("Set by others")[2]))
    read = set(variables_read()) - BETWEEN_PROCESSES
    assert others == {name for name in read if name.startswith(OTHERS)}
    assert own == read - others and "DATA_ROOT" in own


def test_every_file_and_column_of_the_results_is_explained(committed: Path) -> None:
    page, results = text_of(committed / "reports/README.md"), committed / "reports/results"
    files = {codes(title)[0] for title in re.findall(r"^### (.+)$", page, re.MULTILINE)}
    assert files == {path.name for path in results.iterdir()}
    for path in results.glob("*.csv"):
        named = [code for row in rows(section(page, f"`{path.name}`")) for code in codes(row[0])]
        assert len(named) == len(set(named))
        columns = path.read_text(encoding="utf-8").partition("\n")[0].split(",")
        patterns = {name: re.compile(re.sub("LEVEL|PERCENT", r"\\d+", name)) for name in named}
        assert [column for column in columns if not any(one.fullmatch(column) for one in patterns.values())] == []
        assert [name for name, one in patterns.items() if not any(map(one.fullmatch, columns))] == [], path.name
    entry = set(codes(section(page, "JSON")))
    for name in ("svd", "pca", "sep", "rotation"):
        keys = {key for row in rows(section(page, f"`{name}.json`")) for key in codes(row[0])}
        for backbone in json.loads((results / f"{name}.json").read_text()).values():
            assert keys == set(backbone) - entry, name
    for name in {"teacher", "cost", "truncation"} & {path.stem for path in results.glob("*.json")}:
        content = json.loads((results / f"{name}.json").read_text())
        found = set(content) if name == "teacher" else {key for one in content.values() for key in one}
        recipe = {code for row in rows(section(page, "`runs.csv`"))[4:8] for code in codes(row[0])}
        assert set(codes(section(page, f"`{name}.json`"))) - {"runs.csv"} >= found - recipe, name


def test_every_file_beside_the_results_is_explained(committed: Path) -> None:
    page = text_of(committed / "reports/README.md")
    listed = {codes(row[0])[0].rstrip("/") for row in rows(page.partition("\n## ")[0])}
    assert listed == {path.name for path in (committed / "reports").iterdir()} - {"README.md"}


def test_every_figure_is_listed() -> None:
    drawn: set[str] = set()
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        drawn |= set(re.findall(r'figures, f?\\"([^"\\]+)\\"', notebook.read_text(encoding="utf-8")))
    page = text_of(ROOT / "notebooks/README.md").partition("## Figures")[2]
    assert {codes(row[1])[0] for row in rows(page)} == {
        re.sub(r"{(\w+)}", lambda found: found[1].upper(), name) for name in drawn
    }


def test_the_groups_are_those_of_the_configuration() -> None:
    listed = {
        codes(row[0])[0]: set(codes(row[1])) for row in rows(section(text_of(ROOT / "stages/conf/README.md"), "Groups"))
    }
    assert listed == {group: {*options_of(group)} for group in GROUPS}


def test_every_command_for_people_is_listed() -> None:
    page = text_of(ROOT / "stages/tools/README.md").partition("\n## ")[0]
    commands_listed = set(re.findall(r"`python -m stages\.tools\.(\w+)", page))
    helpers = {code for line in page.splitlines() if not line.startswith("|") for code in codes(line)}
    modules = {path.stem for path in (ROOT / "stages/tools").glob("*.py")} - {"__init__"}
    assert commands_listed == {name for name in modules if "__main__" in (ROOT / f"stages/tools/{name}.py").read_text()}
    assert modules - commands_listed <= helpers


def test_what_to_touch_is_there() -> None:
    """CONTRIBUTING.md says `NAME` in, or of, `FILE`."""
    named = re.findall(r"`([\w.]+)`\s+(?:in|of)\s+`(stages/[\w/]+\.py)`", text_of(ROOT / "CONTRIBUTING.md"))
    assert len(named) >= 4
    for name, file in named:
        for part in name.split("."):
            assert re.search(rf"\b{part}\b", (ROOT / file).read_text(encoding="utf-8")), (name, file)


def test_images_and_weights_beside_are_seen_by_neither_git_nor_dvc(tmp_path: Path) -> None:
    """`dvc exp apply` stashes what git does not ignore; DVC walks through the rest. A link is no folder to git."""
    shutil.copy(ROOT / ".gitignore", tmp_path)
    shutil.copy(ROOT / ".dvcignore", tmp_path)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "elsewhere/ant").mkdir(parents=True)
    (tmp_path / "data").symlink_to("elsewhere")
    for name in ("weights/vit.safetensors", "tests/data/test_hub.py", "stages/core/data/pool.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    shown = subprocess.run(["git", "status", "-s", "-uall"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert {line[3:] for line in shown.stdout.splitlines()} == {
        *(".gitignore", ".dvcignore", "tests/data/test_hub.py", "stages/core/data/pool.py")
    }
    with Repo.init(str(tmp_path)) as repo:
        walked = {
            Path(folder).relative_to(tmp_path).as_posix()
            for folder, _, _ in repo.dvcignore.walk(repo.fs, repo.root_dir)
        }
    assert {"tests/data", "stages/core/data"} <= walked and not walked & {"data", "weights"}


def test_continuous_integration_calls_one_script() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    checkout, python, script = job["steps"]
    assert checkout["uses"].startswith("actions/checkout@") and checkout["with"] == {"fetch-depth": 0}
    assert python["uses"].startswith("actions/setup-python@")
    assert script == {"run": ".ci/run"} and (ROOT / ".ci/run").stat().st_mode & 0o100


def test_the_readme_has_a_line_that_runs_and_one_that_tests_as_all_else_does() -> None:
    """On the first screen; the container is set up by the first line, continuous integration tests by the second."""
    above, _, _ = text_of(ROOT / "README.md").partition("\n## ")
    run, test = (line.split(" && ") for line in blocks(above)[0].splitlines())
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert container["postCreateCommand"] == " && ".join(run[:-1]) and run[-1] == "dvc repro"
    lines = text_of(ROOT / ".ci/run").splitlines()
    made = lines.index('python3 -m venv "$work/venv"')
    assert [line.replace('"$work/venv', ".venv").replace('"', "") for line in lines[made : made + 3]] == test[:3]
    assert lines[-1] == test[3] == "pytest" and any(line.startswith("unset PYTHONPATH") for line in lines[:made])


def test_the_citation_names_paper_and_software() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    published, first = citation["references"]
    assert citation["cff-version"] == "1.2.0" and citation["authors"] == [{"name": "the encoding-mismatch maintainers"}]
    assert first["title"] in text_of(ROOT / "README.md").replace("\n", " ")
    assert first["identifiers"][0]["value"] == "arXiv:2511.15572v1"
    assert first["authors"][:3] == published["authors"] and len(published["authors"]) == 3


def test_the_archives_metadata_agree_with_the_citation() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    archived = json.loads((ROOT / ".zenodo.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [one["name"] for one in archived["creators"]] == [one["name"] for one in citation["authors"]]
    for key in ("title", "version", "license", "keywords"):
        assert archived[key] == citation[key]
    assert (archived["version"], archived["license"]) == (project["version"], project["license"])
    (related,) = archived["related_identifiers"]
    assert citation["references"][1]["identifiers"][0]["value"].startswith(related["identifier"])
    badges = yaml.safe_load((ROOT / "reports/reference/tracks.yaml").read_text())["badges"]
    assert badges["available"]["doi"] == citation.get("doi")
