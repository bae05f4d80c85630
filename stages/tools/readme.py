"""Bring the generated blocks of the pages up to date with tracked files: python -m stages.tools.readme [BLOCK ...].

A block stands between two markers that name it. No figure in a page is typed by hand: it is read from the files that
git tracks, or from the composed configuration.
"""

import argparse
import ast
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from stages.core.base.errors import UserError, run
from stages.core.base.files import read_json, read_yaml, write_text
from stages.core.config.models import Student, Teacher
from stages.core.config.schema import Objective
from stages.core.evidence import studies
from stages.core.evidence.differences import summary_sentence
from stages.core.evidence.effort import read_commands, read_rates
from stages.core.evidence.questions import read_questions
from stages.core.evidence.register import read_published, read_register
from stages.core.evidence.results import read_table
from stages.core.evidence.scales import SAMPLE, counted
from stages.core.evidence.tracks import read_tracks
from stages.core.report.markup import DARK
from stages.core.report.tables import audit as audit_tables
from stages.core.report.tables import distillation, findings, logbook, questions
from stages.core.report.tables import glance as glance_table
from stages.core.report.tables.encoding import premise
from stages.core.runtime.environment import Environment
from stages.paths import AUDIT, FIGURES, MANIFEST, PERFORMANCE, REFERENCE, REPORTS, RESULTS, STUDIES
from stages.tools import performance, prices, study_page, verdicts
from stages.tools.markdown import table, with_block
from stages.tools.record import check_finished

README, PARAMS = Path("README.md"), Path("params.yaml")
EVERY_CLAIM = REPORTS / "claims.md"
CONF, CORE, TESTS = Path("stages/conf"), Path("stages/core"), Path("tests")
# What a figure of the first screen shows, for those who do not see it; the first that is drawn is taken.
HEADLINES = (
    ("headline", "Energy that one image needs against energy that a shared basis needs, and the students' differences"),
    ("accuracy", "Top-1 accuracy by strategy and objective"),
)
# From below: a wing imports from itself and from those before it. tests/pipeline/test_dependencies.py holds it so.
WINGS = (
    *("base", "runtime", "config", "data", "models", "features", "analysis"),
    *("losses", "train", "distillation", "evidence", "report"),
)
PROFILES = ("digits", "cifar100_small", "cifar100_trial", "cifar100", "imagenet")


def figure() -> str:
    """The figure of the first screen: the headline where it is drawn, in light and dark."""
    name, alt = next((name, alt) for name, alt in HEADLINES if (FIGURES / f"{name}.png").is_file())
    light, dark = FIGURES / f"{name}.png", FIGURES / f"{name}{DARK}.png"
    image = f'<img alt="{alt}" src="{light.as_posix()}" width="800">'
    if dark.is_file():
        source = f'<source media="(prefers-color-scheme: dark)" srcset="{dark.as_posix()}">'
        image = f"<picture>\n  {source}\n  {image}\n</picture>"
    return f"{image}\n"


def claims() -> str:
    """What the paper claims, family by family, with the audit's verdicts at each scale."""
    audit = read_json(AUDIT)
    rows = audit_tables.families(audit, read_published(REFERENCE))
    header, cells = ["", *list(rows[0])[1:]], [row.values() for row in rows]
    note = audit_tables.against_itself(audit)
    return (
        f"{table(header, [[f'**{_section(family)}**', *(text or '' for text in rest)] for family, *rest in cells])}\n"
        f"Claims by verdict of the [audit](reports/reference/README.md). {note}".rstrip()
        + "\n"
    )


def _section(family: str) -> str:
    """A link to the claims of a family, one by one."""
    return f"[{family}]({EVERY_CLAIM.as_posix()}#{family.lower().replace(' ', '-')})"


def glance() -> str:
    """Scope, needs, time and cost, and the outcome in the terms of reproducibility tracks."""
    rates = read_rates(PERFORMANCE, RESULTS)
    measured_by = logbook.efforts(read_register(REFERENCE), read_commands(REFERENCE), rates)
    recorded, tracks = studies.read(STUDIES), read_tracks(REFERENCE)
    rows = glance_table.rows(read_json(AUDIT), measured_by, rates, tracks, recorded)
    return table(["at a glance", ""], rows.items())


def every_claim() -> str:
    """Every claim with its verdict, evidence, command and price, in Markdown."""
    return verdicts.written("markdown")


def sample() -> str:
    """The paper's figures of backbones, beside those measured on another sample of the same kind."""
    rows = audit_tables.of_another_sample(read_json(AUDIT))
    if not rows:
        return "No backbone of the paper was measured on such images yet.\n"
    claims = [claim for claim in read_json(AUDIT)["claims"] if claim["where"] == SAMPLE]
    verdicts = ", ".join(counted(count, word) for word, count in Counter(one["verdict"] for one in claims).items())
    studied = ", ".join(f"[{name}]({(STUDIES / name).as_posix()})" for name in sorted({one["run"] for one in claims}))
    return (
        f"{table(list(rows[0]), [list(row.values()) for row in rows])}\n"
        f"On one image of each ImageNet class, not the paper's: {verdicts} ({studied}).\n"
    )


def time() -> str:
    """How long the default run takes."""
    return performance.default_run(performance.measured())


def study() -> str:
    """What the study that was recorded last shows of the paper's claims and of the questions, and what it cannot."""
    last = studies.latest(studies.read(STUDIES))
    if last is None:
        return "No finished reproduction at a scale of natural images is recorded yet.\n"
    claims, register = read_register(REFERENCE), read_questions(REFERENCE)
    asked, top1 = findings.asked(last, register), findings.teacher_top1(last)
    weak = questions.weak_teacher(top1, register)
    listed = [
        *findings.sentences(findings.findings(last, claims), weak, questions.unsaid(asked), brief=True),
        questions.moved_sentence(findings.applied(last), register, brief=True),
        *questions.grouped(asked, weak, alone=False),
    ]
    below = f" Weak: a teacher below {register.teacher_top1:g} %." if weak else ""
    notes = [
        f"Points of top-1; one family of 95 % intervals (Bonferroni, {int(asked['comparisons'].max())} contrasts), "
        "strategy × seed random.",
        questions.looks(last.name, int(asked["seeds"].max()), register),
        questions.registered(asked, last.record["date"]),
    ]
    folder = last.folder.as_posix()
    return (
        f"{findings.setting(last)}{below}\n\n{''.join(f'- {text}{chr(10)}' for text in listed if text)}\n"
        f"{' '.join(filter(None, notes))} From [{folder}]({folder}).\n"
    )


def results() -> str:
    """The comparison of strategies and objectives with its caveats."""
    rows = read_table(RESULTS / "comparison.csv")
    measures = {name: of.set_index("objective").T for name, of in distillation.by_strategy(rows).items()}
    header = ["strategy", *(f"{name}: `{objective}`" for name, of in measures.items() for objective in of)]
    cells = pd.concat(measures.values(), axis=1).fillna("–")
    body = [[f"`{strategy}`", *values] for strategy, values in zip(cells.index, cells.to_numpy(), strict=True)]
    runs, images = read_table(RESULTS / "runs.csv"), read_json(MANIFEST)["val"]["images"]
    seeds = rows["seeds"].max()
    return (
        f"{table(header, body)}\n"
        f"{f'Mean ± standard deviation over {seeds} seeds' if seeds > 1 else 'One seed'}; the teacher reaches "
        f"{read_json(RESULTS / 'teacher.json')['top1']:.2f} %. Two caveats:\n\n"
        f"1. **Scale.** {premise(read_table(RESULTS / 'floor.csv'), read_table(RESULTS / 'encoding.csv'))} Top-1 lies "
        f"between {runs['top1'].min():.2f} and {runs['top1'].max():.2f} %; one validation image is worth "
        f"{100 / images:.2f} points.\n"
        f"2. **Seeds.** {summary_sentence(read_table(RESULTS / 'differences.csv'))}\n"
    )


ORIGINS = {"fit": "fitted", "finetune": "fine-tuned"}  # of a teacher's weights; others are called as in params


def scales() -> str:
    """What each profile trains, and whether its results are here."""
    from stages.tools.compose import composed  # here: no other part of the module needs Hydra

    shown = read_json(MANIFEST)["dataset"]
    kept = studies.read(STUDIES)
    recorded = {study.name: read_yaml(study.folder / "params.yaml")["profile"] for study in kept}
    alone = {study.name for study in kept if not study.has_students}
    rows = []
    for profile in PROFILES:
        params = yaml_of(composed(f"profile={profile}"))
        data, recipe = params["dataset"], params["recipe"]
        teacher, student = Teacher.model_validate(params["teacher"]), Student.model_validate(params["student"])
        own = teacher.model_args.keyword_arguments()
        of_profile = [name for name, of in recorded.items() if of == profile]
        names = [f"study `{name}`{' of backbones, no students' if name in alone else ''}" for name in of_profile]
        names += ["[the default](reports/README.md#the-default)"] if data["label"] == shown else []
        rows.append(
            [
                f"`{profile}`",
                f"{data['classes']} classes, {data['image_size']}²",
                f"`{teacher.architecture}`, {width(teacher.architecture, own)} wide, "
                f"{ORIGINS.get(teacher.weights, teacher.weights)}",
                f"{width(*student.model('baseline', teacher))} wide, {recipe['epochs']} epochs",
                ", ".join(names) or "no figures yet",
            ]
        )
    return table(["profile", "images", "teacher", "students", "state"], rows)


def yaml_of(text: str) -> dict[str, Any]:
    """YAML as a mapping."""
    import yaml

    return yaml.safe_load(text)


def width(architecture: str, arguments: dict[str, Any]) -> int:
    """Channels of a timm model, which is made without weights and takes no memory."""
    import timm
    import torch

    with torch.device("meta"):
        return timm.create_model(architecture, pretrained=False, **arguments).embed_dim


def wings() -> str:
    """Every wing and module of stages/core, by the first line of its docstring."""
    sections = []
    for name in WINGS:
        package = CORE / name
        files = {file.relative_to(package).with_suffix(""): file for file in package.rglob("*.py")}
        del files[Path("__init__")]
        modules = {(f"{path.parent}/" if path.name == "__init__" else str(path)): file for path, file in files.items()}
        rows = [[f"`{module}`", summary(modules[module])] for module in sorted(modules)]
        sections.append(
            f"### {name}\n\n{summary(package / '__init__.py')}\n\n{table(['module', 'what it holds'], rows)}"
        )
    return "\n".join(sections)


def variables() -> str:
    """The environment variables that describe the machine, with defaults and possible values."""
    rows = []
    for name, field in Environment.model_fields.items():
        default = "" if field.default is None else f" Default: {field.default:g}."
        values = ", ".join(value if value == "…" else f"`{value}`" for value in field.examples or [])
        rows.append([f"`{name.upper()}`", f"{field.description}{default}", values])
    return table(["variable", "meaning", "values"], rows)


def keys() -> str:
    """The keys of an objective: what they mean, which values they take, and what holds where they are left out."""
    rows = []
    for name, key in Objective.model_json_schema()["properties"].items():
        default = f"`{json.dumps(key['default'])}`" if "default" in key else "to be given"
        rows.append([f"`{name}`", " ".join(key["description"].split()), allowed(key), default])
    return table(["key", "meaning", "values", "default"], rows)


def allowed(key: dict[str, Any]) -> str:
    """The values that a key takes, from its JSON schema."""
    if "anyOf" in key:
        return ", ".join(map(allowed, key["anyOf"]))
    if "enum" in key:
        return ", ".join(f"`{value}`" for value in key["enum"])
    if key["type"] == "array":
        return f"a list of {allowed(key['items'])}"
    if key["type"] == "number":
        least = f"above {key['exclusiveMinimum']:g}" if "exclusiveMinimum" in key else f"at least {key['minimum']:g}"
        return f"{least}, at most {key['maximum']:g}" if "maximum" in key else least
    return {"null": "`null`", "boolean": "`true`, `false`"}[key["type"]]


def summary(module: Path) -> str:
    """The first sentence or line of a module's docstring.

    Raises:
        UserError: there is none.
    """
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8")))
    if not text:
        raise UserError(f"{module} has no docstring; say in its first line what the module holds")
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def promises() -> str:
    """How often the pipeline was killed, and how memory and time grow with images."""
    faults, growth = read_json(REPORTS / "faults.json"), read_json(PERFORMANCE / "growth-cpu.json")
    of_stages = growth["results"].values()
    memory = max(stage["growth"] for stage in of_stages)
    line = max(abs(off) for stage in of_stages for off in stage["off_the_line"])
    images = [f"{count:,}" for count in growth["images"]]
    return (
        f"- `reports/faults.json` ({faults['date']}): {faults['kills']} kills, "
        f"{faults['while_a_checkpoint_was_written']} of them while a checkpoint was written; "
        f"{faults['recoveries_equal_to_the_reference']} recoveries, all equal to the uninterrupted run bit for bit "
        "(on a CPU).\n"
        f"- `reports/performance/growth-cpu.json` ({growth['date']}): {', '.join(images[:-1])} and {images[-1]} "
        f"images; peak memory within {100 * memory:.1f} %, times within {100 * line:.1f} % of a line.\n"
    )


BLOCKS: dict[str, tuple[Path, Callable[[], str]]] = {
    "figure": (README, figure),
    "claims": (README, claims),
    "glance": (README, glance),
    "every_claim": (EVERY_CLAIM, every_claim),
    "sample": (README, sample),
    "time": (README, time),
    "study": (README, study),
    "results": (REPORTS / "README.md", results),
    "scales": (README, scales),
    "keys": (CONF / "README.md", keys),
    "prices": (CONF / "README.md", lambda: prices.prices(PERFORMANCE)),
    "wings": (CORE / "README.md", wings),
    "variables": (CORE / "train/README.md", variables),
    "promises": (TESTS / "README.md", promises),
}


def with_blocks(page: Path, text: str, blocks: list[str]) -> str:
    """A page's text with those of `blocks` that stand in it made anew."""
    for block in blocks:
        place, content = BLOCKS[block]
        if place == page:
            text = with_block(page, text, block, content())
    return text


def check_default() -> None:
    """Refuse parameters, or results, that are not the composed default run's.

    Raises:
        UserError: params.yaml is another, or the results are not up to date with it.
    """
    from stages.tools.compose import composed  # here: no other part of the module needs Hydra

    if PARAMS.read_text(encoding="utf-8") != composed():
        raise UserError(
            f"{PARAMS} is not the composed default, whose results {README} shows; "
            "run `python -m stages.tools.compose && dvc repro`"
        )
    check_finished()


def main() -> None:
    """Rewrite the blocks that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    named = f"{', '.join(BLOCKS)}; without any, all of them and the pages of studies"
    parser.add_argument("blocks", nargs="*", metavar="BLOCK", help=named)
    asked = parser.parse_args().blocks
    blocks = asked or list(BLOCKS)
    for block in blocks:
        if block not in BLOCKS:
            raise UserError(f"{block}: no such block; it must be one of {', '.join(BLOCKS)}")
    if "results" in blocks:
        check_default()
    for page in {BLOCKS[block][0] for block in blocks}:
        write_text(page, with_blocks(page, page.read_text(encoding="utf-8"), blocks))
    if not asked:
        study_page.refresh(studies.read(STUDIES), read_register(REFERENCE), read_questions(REFERENCE))


if __name__ == "__main__":
    run(main)
