"""The page of benchmarks: what was measured, and plainly what was not."""

import json

import pytest

from stages.core.base.errors import UserError
from stages.tools import performance, performance_figures, performance_tables

TRAINING = {
    "benchmark": "training",
    "command": "python tests/benchmarks/training.py --scale imagenet",
    "date": "2026-01-01",
    "hardware": {"cpu": "c", "cores": 1, "memory_gib": 1.0, "gpus": [{"name": "G100", "memory_gib": 80.0}]},
    "versions": {"torch": "2"},
    "objective": "softkd_mse",
    "batch": 512,
    "matrix_peak_flops_per_s": 10**12,
    "copy_peak_bytes_per_s": 10**11,
    "results": [
        {
            "student": "widen",
            "flops_per_image": 10**8,
            "eager_bytes_per_image": 10**7,
            "ours": {
                "images_per_s": {"median": 4000.0, "min": 3900.0, "max": 4100.0, "rounds": 3},
                "utilisation": 0.4,
                "peak_memory_gib": 3.5,
            },
            "textbook": {
                "images_per_s": {"median": 1000.0, "min": 900.0, "max": 1100.0, "rounds": 3},
                "utilisation": 0.1,
                "peak_memory_gib": None,
            },
        }
    ],
}

GREW = {"seconds": [1.0, 2.1], "peak_mib": [9.0, 9.1], "start_s": 0.0, "s_per_1000_images": 1.0}


def test_the_page_shows_the_tracked_measurements(root, monkeypatch):
    monkeypatch.chdir(root)
    found = performance.measured()
    assert performance.PAGE.read_text() == performance.page(found), "run: python -m stages.tools.performance"


def cells(page: str, title: str) -> dict[str, list[str]]:
    """The cells of a section's table by the first one of their row."""
    section = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]
    return {row[0]: row[1:] for row in rows}


def test_what_was_not_measured_is_said_to_be_so():
    page = performance.page({})
    missing = "not measured"
    places = {
        name.removeprefix("training-").replace("-", ", ")
        for name in performance_tables.BENCHMARKS
        if "training" in name
    }
    assert cells(page, "Training step") == {place: [missing] * 8 for place in places}
    assert cells(page, "Extraction") == {device: [missing] * 8 for device in ("cuda", "cpu")}
    sources = cells(page, "How it was measured")
    assert set(sources) == set(performance_tables.BENCHMARKS)
    for name, (command, *rest) in sources.items():
        assert command == f"`{performance_tables.BENCHMARKS[name]} --out reports/performance/{name}.json`"
        assert rest == [missing] * 3
    for title in ("Where it stands", "Two floors", "Loading", "A whole default run"):
        assert "Not measured." in page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    assert "wall time of the paper's run: not measured" in page


def test_only_what_was_measured_is_shown_as_such():
    page = performance.page({"training-imagenet-cuda": TRAINING})
    rows = cells(page, "Training step") | cells(page, "How it was measured")
    assert {name for name, row in rows.items() if "not measured" not in row} == {
        "imagenet, cuda",
        "training-imagenet-cuda",
    }
    assert rows["imagenet, cuda"][0] == "widen" and rows["training-imagenet-cuda"][1] == "2026-01-01"


def test_a_measured_default_run_is_described_in_words():
    record = {"repro_s": 321.0, "unchanged_s": 1.44, "unit_s": 3.72, "largest_process_gib": 1.03}
    record |= {"hardware": {"cores": 2, "cpu": "A CPU"}}
    assert performance.default_run({"whole_run-cpu": record}) == (
        "`dvc repro` of the default takes 5.3 min from nothing and 1.4 s with nothing changed, on 2 cores (A CPU) "
        'where `python -c "import timm"` takes 3.7 s; its largest process takes 1.0 GiB.\n'
    )
    assert "not measured" in performance.default_run({})


def test_a_measured_gpu_gives_the_wall_time():
    text = performance.wall_time({"training-imagenet-cuda": TRAINING})
    hours = 300 * 1_281_167 / 4000 / 3600  # 26.7
    assert f"{hours:.0f} h on one G100, {hours / 4:.0f} h on 4" in text


def test_floors_are_operations_and_bytes_over_the_peaks():
    row = performance_tables.floors_table({"training-imagenet-cuda": TRAINING}).splitlines()[2]
    assert row == "| imagenet, cuda | widen | 0.1 | 100 | 10 | 100 | 250 |"


def test_ratios_stand_beside_the_rates():
    row = performance_tables.training_table({"training-imagenet-cuda": TRAINING}).splitlines()[2]
    assert "| 4,000.0 (3,900.0-4,100.0) | 1,000.0 (900.0-1,100.0) | 3.73 | 40.0% | 10.0% | 3.5 / – |" in row


def test_other_forms_of_the_step_stand_beside_it():
    half = {"images_per_s": {"median": 2000.0, "min": 1990.0, "max": 2050.0, "rounds": 3}, "peak_memory_gib": 7.0}
    record = {**TRAINING, "compiled": True, "results": [{**TRAINING["results"][0], "forms": {"eager": half}}]}
    found = performance_tables.forms_table({"training-imagenet-cuda": record})
    assert "| imagenet, cuda | widen | ours, compiled | 4,000.0 (3,900.0-4,100.0) | 100% | 3.5 |\n" in found
    assert "| imagenet, cuda | widen | not compiled | 2,000.0 (1,990.0-2,050.0) | 50% | 7.0 |\n" in found


def test_kernels_are_named_briefly():
    kernel = {"kernel": "void at::native::" + 100 * "k", "calls": 12, "ms": 3.456, "share": 0.25}
    record = {**TRAINING, "results": [{**TRAINING["results"][0], "kernels": [kernel]}]}
    found = performance_tables.kernels_table({"training-imagenet-cuda": record})
    assert f"| imagenet, cuda | widen | `{71 * 'k'}…` | 12 | 3.46 | 25.0% |\n" in found


def test_students_side_by_side_stand_beside_the_limit_of_the_arithmetic():
    times = {"median": 1.0, "min": 0.5, "max": 1.5, "rounds": 3}
    one = {"students": 3, "together_s": times, "apart_s": times, "ratio": times, "limit": 1.25, "share_of_limit": 0.8}
    record = {"benchmark": "together", "results": [one], "limits": {"imagenet": {"1": 1.0, "3": 1.907}}}
    found = performance_tables.together_table({"together-digits-cpu": record})
    assert "| digits, cpu | 3 | 1.00 (0.50-1.50) | 1.00 (0.50-1.50) | 1.00 (0.50-1.50) | 1.25 | 80% |\n" in found
    assert performance_tables.limits_table({"together-digits-cpu": record}).endswith("| imagenet | 1.00 | 1.91 |\n")
    assert "not measured" in found and performance_tables.limits_table({}) == "Not measured.\n"


def rates(**medians):
    return {way: {"median": one, "min": one, "max": one, "rounds": 1} for way, one in medians.items()}


LOADING = {
    "repeats": 3,
    "results": [
        {
            "workers": 1,
            "images_per_s": rates(ours=120.0, once=60.0, timm=80.0),
            "images_per_cpu_s": rates(ours=100.0, once=50.0, timm=70.0),
        }
    ],
    "parts_ms": {"read": 0.5, "decode": 5.5, "crop, resize, flip": 2.0, "RandAugment": 3.5, "to a tensor": 0.5},
    "decoders": {"Pillow": {"ms": 5.5, "largest_difference": 0}, "other": {"ms": 4.0, "largest_difference": 2}},
    "halved": 0.25,
}


def test_loading_stands_beside_timm_s_loader():
    found = performance_tables.loading_table({"loading-cpu": LOADING})
    shown = " | ".join(f"{rate:.1f} ({rate:.1f}-{rate:.1f})" for rate in (120, 60, 80))
    assert f"| 1 | {shown} | 1.50 | 2.00 | 100.0 (100.0-100.0) |" in found
    assert "| Pillow | 5.5 | the same pixels |\n| other | 4.0 | 2 |\n" in found and "25% of the crops" in found
    assert performance_tables.loading_table({}) == "Not measured.\n"


def test_cores_that_feed_a_gpu_are_its_rate_over_that_of_a_cpu_second():
    text = performance.cores_text({"loading-cpu": LOADING, "training-imagenet-cuda": TRAINING})
    assert "40 such cores feed one G100 at its 4,000 images/s, and 54 at 5,400" in text
    assert "not measured" in performance.cores_text({"loading-cpu": LOADING})


def test_where_it_stands_is_a_distance_from_a_limit():
    record = {"model": "m", "images_per_s": rates(ours=8.0, layerwise=5.0, forward=10.0, plain=4.0)}
    measured = {"loading-cpu": LOADING, "training-imagenet-cuda": TRAINING, "extraction-cpu": record}
    training, loading, extraction = performance_tables.standing_table(measured).splitlines()[2:]
    assert "10,000 images/s" in training and "| 4,000 images/s, 40.0% | 2.5 times, 0.6 to the anchor |" in training
    assert "a decoding for 3 images: 125 images | timm's loader: 70 | 100 | 1.25 times |" in loading  # 8 ms each
    assert (
        "alone: 10.0 images/s | one image at a time: 4.0 | 8.0 images/s; of every block 5.0 | 1.25 times; 2.00 |"
        in extraction
    )
    assert performance_tables.standing_table({}) == "Not measured.\n"


def test_growth_shows_memory_time_and_the_line():
    growth = {
        "images": [1_000, 16_000],
        "results": {
            "svd": {
                "seconds": [2.0, 31.0],
                "peak_mib": [200.0, 210.0],
                "growth": 0.05,
                "start_s": 0.1,
                "s_per_1000_images": 1.9,
                "off_the_line": [0.01, -0.03],
            }
        },
    }
    row = performance_tables.growth_table({"growth-cpu": growth}).splitlines()[2]
    assert row == "| svd | 200.0 | 210.0 | 5.0% | 2.0 | 31.0 | 1.90 | 3.0% |"
    assert performance_tables.growth_table({}) == "Not measured.\n"


@pytest.mark.parametrize("records", [{}, {"growth-cpu": None}])
def test_the_figure_of_growth_is_drawn_the_same_every_time(records, tmp_path):
    records = {name: {"images": [1, 2], "results": {"sep": GREW}} for name in records}
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        performance_figures.growth(records, tmp_path / folder)
    for name in ("growth.svg", "growth.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_an_unknown_measurement_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(performance, "PERFORMANCE", tmp_path)
    (tmp_path / "training-tpu.json").write_text(json.dumps(TRAINING))
    with pytest.raises(UserError, match=r"training-tpu\.json: its name must be one of training-imagenet-cuda, "):
        performance.measured()
