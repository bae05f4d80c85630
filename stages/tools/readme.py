"""Bring the results table of README.md up to date with the tracked results: python -m stages.tools.readme."""

from pathlib import Path

from stages.core.base.errors import UserError, run
from stages.core.base.files import read_json, write_text
from stages.core.evidence.statistics import summary_sentence
from stages.core.report.notebooks import read_table
from stages.core.report.tables.distillation import comparison, premise
from stages.paths import AUDIT, RESULTS
from stages.tools.record import check_finished

README, PARAMS = Path("README.md"), Path("params.yaml")
BEGIN, END = "<!-- results: python -m stages.tools.readme -->\n", "<!-- end of results -->\n"


def results_table() -> str:
    """The comparison of strategies and objectives, and the audit's counts, as Markdown."""
    table = comparison(read_table(RESULTS / "comparison.csv"))
    lines = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
    rows = [f"| {' | '.join(map(str, line))} |" for line in lines]
    teacher, counts = read_json(RESULTS / "teacher.json"), read_json(AUDIT)["counts"]
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    rows += ["", f"Mean ± sample standard deviation over seeds; the teacher reaches {teacher['top1']:.2f} %. "]
    rows[-1] += f"{premise(read_table(RESULTS / 'floor.csv'), read_table(RESULTS / 'encoding.csv'))} "
    rows[-1] += f"{summary_sentence(read_table(RESULTS / 'differences.csv'))} Published claims: {verdicts}."
    return "\n".join(rows) + "\n"


def with_results(text: str) -> str:
    """README's text with the table between its two markers replaced."""
    if BEGIN not in text or END not in text:
        raise UserError(f"{README} has lost the markers {BEGIN.strip()} and {END.strip()}; put them back")
    return text[: text.index(BEGIN) + len(BEGIN)] + results_table() + text[text.index(END) :]


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
    """Rewrite README.md."""
    check_default()
    write_text(README, with_results(README.read_text(encoding="utf-8")))


if __name__ == "__main__":
    run(main)
