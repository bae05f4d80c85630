"""Whatever a user can hand in ends in the right answer or in one line, never in a traceback."""

import copy
import io
import json
import string
import unicodedata
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from stages import summarize
from stages.core.analysis import registry
from stages.core.analysis.dims import dims, shares
from stages.core.analysis.pca import shared_basis
from stages.core.analysis.spectra import mean_spectra, moment, spectrum_of_moment
from stages.core.analysis.svd import energies
from stages.core.base.arrays import read_npy, write_npy
from stages.core.base.errors import UnreadableImageError, UserError
from stages.core.base.files import read_json, write_json, write_text
from stages.core.config import params
from stages.core.data.decoding import decode
from stages.core.data.folders import scan
from stages.core.data.image_list import ImageList
from stages.core.data.splits import read_index
from stages.core.features.store import describe, last_block
from stages.core.report.rendering import render
from stages.tools.compose import composed

GIVEN = yaml.safe_load(composed())
WITH_FILES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
fuzz = settings(suppress_health_check=WITH_FILES)


def paths(value, path=()):
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths(inner, (*path, key))


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.binary(max_size=4)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3), max_leaves=6
)


def one_line(error):
    assert "\n" not in str(error) and str(error)


@fuzz
@given(path=st.sampled_from(list(paths(GIVEN))), value=values, removed=st.booleans())
def test_params_of_any_kind_load_or_are_named(path, value, removed):
    changed = copy.deepcopy(GIVEN)
    section = changed
    for key in path[:-1]:
        section = section[key]
    if removed:
        del section[path[-1]]
    else:
        section[path[-1]] = value
    try:
        params.check(changed, Path("params.yaml"), registry.sections())
    except UserError as error:
        one_line(error)
        assert str(path[0]) in str(error)


@fuzz
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")))
def test_params_of_any_bytes_are_refused_in_one_line(tmp_path, content):
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        params.load(tmp_path / "params.yaml", registry.sections())
    one_line(caught.value)


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 100
)


@fuzz
@given(classes=st.lists(names, min_size=1, max_size=3, unique=True), stem=names)
def test_names_in_any_script_are_listed_or_refused(tmp_path_factory, classes, stem):
    folder = tmp_path_factory.mktemp("names")
    for name in classes:
        (folder / name).mkdir()
        (folder / name / f"{stem}.png").write_bytes(b"x")
    seen = [name for name in classes if not name.startswith(".")]
    try:
        split = scan(folder)
    except UserError as error:
        one_line(error)
        controls = any(unicodedata.category(letter) == "Cc" for letter in "".join(seen) + stem)
        alike = len({unicodedata.normalize("NFC", name) for name in seen}) < len(seen)
        assert controls or alike or not seen or stem.startswith(".")
        return
    assert sorted(split.files) == sorted(f"{name}/{stem}.png" for name in seen)
    assert split.passed_over == len(classes) - len(seen)
    assert [split.classes[label] for label in split.labels()] == [file.partition("/")[0] for file in split.files]
    write_text(folder / "index", "\n".join(split.files) + "\n")
    assert read_index(folder / "index") == list(split.files)


@pytest.mark.parametrize(
    ("link", "target"), [("inner/loop", "../../ant"), ("self.png", "self.png"), ("self", "self"), ("bee", "../bee")]
)
def test_links_in_a_circle_are_named_or_passed_over(tmp_path, link, target):
    (tmp_path / "ant/inner").mkdir(parents=True)
    (tmp_path / "ant/a.png").write_bytes(b"x")
    (tmp_path / "ant" / link).symlink_to(target)
    try:
        assert scan(tmp_path).files == ("ant/a.png",)
    except UserError as error:
        one_line(error)
        assert str(tmp_path / "ant") in str(error)


def encoded(image, form, **options):
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def test_animations_give_their_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for form, options in (("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {}), ("GIF", {})):
        content = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
        assert decode(content, "a").getpixel((3, 3)) == (255, 0, 0)


def test_a_wrong_extension_changes_nothing(tmp_path):
    picture = Image.new("RGB", (8, 8), "red")
    (tmp_path / "a.jpeg").write_bytes(encoded(picture, "PNG"))
    assert ImageList(tmp_path, ["a.jpeg"], [0]).sample(0)[0].getpixel((0, 0)) == (255, 0, 0)


def test_a_decompression_bomb_is_refused(tmp_path):
    side = 14_000  # 196 million pixels in a file of 24 kB
    content = encoded(Image.new("1", (side, side)), "PNG")
    assert len(content) < 100_000
    with pytest.raises(UnreadableImageError, match="decompression bomb") as caught:
        decode(content, "bomb.png")
    one_line(caught.value)


@fuzz
@given(
    mode=st.sampled_from(["1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "LA", "YCbCr", "F", "I"]),
    form=st.sampled_from(["PNG", "JPEG", "TIFF", "WEBP", "BMP", "PPM"]),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    cut=st.floats(0, 1),
)
def test_images_whole_or_cut_decode_or_are_named(mode, form, size, cut):
    try:
        content = encoded(Image.new(mode, size), form)
    except (OSError, ValueError):
        return  # a format that cannot hold this mode
    for given_bytes in (content, content[: int(cut * len(content))]):
        try:
            image = decode(given_bytes, "a.png")
            assert (image.mode, image.size) == ("RGB", size)
        except UnreadableImageError as error:
            one_line(error)


finite = st.floats(-(2.0**100), 2.0**100, width=32)
shapes = st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6))


@fuzz
@given(features=hnp.arrays(np.float32, shapes, elements=finite), fortran=st.booleans(), constant=st.booleans())
def test_features_of_any_shape_are_analysed(features, fortran, constant):
    if constant:
        features[:, 0] = 1
    if fortran:
        features = np.asfortranarray(features)
    images, tokens, channels = features.shape
    squares = np.square(features.astype(np.float64)).sum((1, 2))
    found = energies(features)
    assert found.shape == (images, min(tokens, channels))
    np.testing.assert_allclose(found.sum(1), squares, rtol=1e-9)
    basis = shared_basis(features)
    np.testing.assert_allclose(basis.energies.sum(1), squares, rtol=1e-9)
    spectra = mean_spectra(features)
    assert spectra.tokens.sum() + spectra.zero_tokens == images * tokens
    assert spectra.folded.sum(1) == pytest.approx((spectra.tokens > 0).astype(float))
    np.testing.assert_allclose(spectrum_of_moment(moment(features)), spectra.mean(), atol=1e-9)
    for cumulative in (shares(found), shares(basis.energies), shares(spectra.folded)):
        counts = dims(cumulative, [50, 95])
        assert ((counts >= 1) & (counts <= cumulative.shape[1])).all()


@fuzz
@given(
    features=hnp.arrays(np.float32, shapes, elements=finite),
    where=st.integers(0, 10**6),
    value=st.sampled_from([np.nan, np.inf, -np.inf]),
)
def test_a_feature_that_is_not_finite_is_named_by_its_image(features, where, value):
    where %= features.size
    features.flat[where] = value
    image = where // (features.shape[1] * features.shape[2])
    for analysis in (energies, shared_basis, mean_spectra, moment):
        with pytest.raises(UserError, match=f"^image {image} of the sample has a feature that is not finite$"):
            analysis(features)


@pytest.fixture
def extracted(tmp_path):
    """A folder of extracted features: 2 images, 3 tokens, 4 channels."""
    write_npy(tmp_path / "layer_00.npy", np.ones((2, 3, 4), np.float32))
    blocks = [{"block": 0, "tokens": 3, "channels": 4}]
    record = {"architecture": "a", "weights": "random", "input_size": [3, 8, 8], "images": 2, "blocks": blocks}
    write_json(tmp_path / "features.json", record)
    return tmp_path


@fuzz
@given(keep=st.integers(0, 223), flip=st.integers(0, 127))
def test_a_damaged_array_is_read_or_refused_in_one_line(extracted, keep, flip):
    whole = encoded_npy(np.ones((2, 3, 4), np.float32))
    for content in (whole[:keep], whole[:flip] + bytes([whole[flip] ^ 0x15]) + whole[flip + 1 :]):
        (extracted / "layer_00.npy").write_bytes(content)
        try:
            assert last_block(extracted).shape == (2, 3, 4)
        except UserError as error:
            one_line(error)
            assert "layer_00.npy" in str(error) and "run `dvc repro`" in str(error)
            continue
        assert len(content) == len(whole)


def encoded_npy(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        np.ones((2, 3, 4)),
        np.ones((2, 3, 4), np.float16),
        np.ones((2, 3, 4), ">f4"),
        np.ones((2, 3, 4), np.int32),
        np.ones((2, 3, 4), np.complex64),
        np.ones((2, 4, 3), np.float32),
        np.ones((2, 3), np.float32),
        np.ones((0, 3, 4), np.float32),
        np.array(["a"]),
        np.float32(1),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
def test_features_of_another_type_or_shape_are_refused(extracted, array):
    (extracted / "layer_00.npy").write_bytes(encoded_npy(array))
    with pytest.raises(UserError, match=r"layer_00.npy (is .*, not float32 \(2, 3, 4\)|cannot be read)") as caught:
        last_block(extracted)
    one_line(caught.value)


def test_the_order_of_an_array_in_its_file_changes_nothing(extracted, rng):
    tokens = rng.normal(size=(2, 3, 4)).astype(np.float32)
    (extracted / "layer_00.npy").write_bytes(encoded_npy(np.asfortranarray(tokens)))
    np.testing.assert_array_equal(read_npy(extracted / "layer_00.npy"), tokens)
    np.testing.assert_array_equal(energies(last_block(extracted)), energies(tokens))


@pytest.mark.parametrize("key", ["architecture", "weights", "images", "blocks"])
def test_a_record_of_another_version_is_named(extracted, key):
    record = json.loads((extracted / "features.json").read_text())
    del record[key]
    write_json(extracted / "features.json", record)
    with pytest.raises(UserError, match=f"features.json has no '{key}': another version wrote it; delete it"):
        describe(extracted)


@fuzz
@given(content=st.binary(max_size=40) | st.text(string.printable, max_size=40).map(str.encode))
def test_json_of_any_bytes_is_read_or_refused_in_one_line(tmp_path, content):
    (tmp_path / "metrics.json").write_bytes(content)
    try:
        read_json(tmp_path / "metrics.json")
    except UserError as error:
        one_line(error)


def test_summarize_names_metrics_that_it_cannot_use(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text(composed())
    (tmp_path / "artifacts/teach").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["summarize"])
    for metrics in (None, "", "{}", '{"loss": 1.0}', "[]", "null"):
        if metrics is not None:
            Path("artifacts/teach/metrics.json").write_text(metrics)
        with pytest.raises(UserError, match=r"^artifacts/") as caught:
            summarize.main()
        one_line(caught.value)
        assert not Path("reports").exists()


def test_a_notebook_that_fails_is_named_and_nothing_is_written(tmp_path):
    cells = [nbformat.v4.new_code_cell("figures = ''", metadata={"tags": ["parameters"]})]
    cells.append(nbformat.v4.new_code_cell("1 / 0"))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / "page.ipynb")
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"page.ipynb: cell \d fails at `1 / 0`: ZeroDivisionError") as caught:
        render(tmp_path / "page.ipynb", out / "page.ipynb", out / "page.html", out / "figures", {})
    one_line(caught.value)
    assert not out.exists()
