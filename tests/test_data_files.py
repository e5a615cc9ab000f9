"""Readers of files, and augmentation of images."""

import gzip
import struct
import sys
import tracemalloc

import numpy as np
import pytest

import gpuprop
import gpuprop.functional as F
from gpuprop.data import (
    ArrayDataset,
    Compose,
    Cutout,
    DataLoader,
    ImageFolder,
    Mixup,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    ToFloat,
    read_csv,
    read_idx,
    read_image,
)
from gpuprop.data._augmentation import _symmetric_beta
from gpuprop.random import Generator

# ---- IDX -----------------------------------------------------------------------------------------

TYPE_CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C,
              "float32": 0x0D, "float64": 0x0E}


def idx(array):
    code = TYPE_CODES[array.dtype.name]
    head = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("dtype", TYPE_CODES)
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_idx(tmp_path, dtype, compress):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    path = tmp_path / "images-idx3"
    path.write_bytes(compress(idx(array)))
    got = read_idx(path)
    assert got.dtype == dtype and got.dtype.isnative and got.flags.writeable
    np.testing.assert_array_equal(got, array)


COMPLETE = idx(np.zeros((3, 4), np.uint8))
COMPRESSED = gzip.compress(COMPLETE, mtime=0)  # so that the test ids are the same in every process


@pytest.mark.parametrize("data, message", [
    (b"", "damaged IDX file"), (b"PK\x03\x04aaaa", "starts with 50 4b 03 04"),
    (COMPLETE[:6], "damaged IDX file"),
    (COMPLETE[:-1], r"expected 12 bytes .* shape \(3, 4\), got 11"), (COMPLETE + b"1", "got 13"),
    (COMPRESSED[:-9], "damaged IDX file"),
    (COMPRESSED[:-1] + b"!", "damaged IDX file"),
    (b"\0\0\x08\x03" + b"\xff" * 12, "expected 79228162458924105385300197375 bytes"),
    (gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12, mtime=0), "damaged IDX file: expected"),
    (b"\0\0\x08\x41" + b"\0\0\0\1" * 65 + b"1", "not an IDX file"),
    (gzip.compress(COMPLETE + bytes(10**8), 9, mtime=0), "got 13 or more")])
def test_files_that_are_not_idx(tmp_path, data, message):
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        tracemalloc.start()
        try:
            read_idx(path)
        finally:
            assert tracemalloc.get_traced_memory()[1] < 1e6
            tracemalloc.stop()
    assert str(path) in str(caught.value)


# ---- CSV -----------------------------------------------------------------------------------------


def table(folder, text, **kwargs):
    (folder / "table.csv").write_text(text, encoding="utf-8")
    return read_csv(folder / "table.csv", **kwargs)


def test_csv(tmp_path):
    text = '\ufeffwidth, length,"kind, or so"\n1,2.5,setosa\n\n3,NA,virginica\n-1e3,,setosa\n'
    iris = table(tmp_path, text, target=-1)
    assert (iris.columns, iris.classes) == (["width", "length"], ["setosa", "virginica"])
    np.testing.assert_array_equal(iris.inputs, [[1, 2.5], [3, np.nan], [-1000, np.nan]])
    assert iris.target.tolist() == [0, 1, 0] and iris.target.dtype == "int64"

    (x, y), = DataLoader(ArrayDataset(iris.inputs, iris.target), 3)
    assert (x.dtype, y.dtype) == ("float32", "int64")


def test_csv_without_header_and_with_columns(tmp_path):
    pima = table(tmp_path, "6;148;1\n1;85;0\n", target=2, delimiter=";")
    assert pima.columns == ["0", "1"] and pima.target.tolist() == [1, 0] and pima.classes == []
    series = table(tmp_path, "Month,Rain\n1949-01,1.5\n1949-02,2\n", target="Rain", columns=[])
    assert series.inputs.shape == (2, 0)
    assert series.target.tolist() == [1.5, 2.0] and series.target.dtype == "float64"
    years = table(tmp_path, "1990,1991\n1,2\n", header=True)
    assert years.columns == ["1990", "1991"]
    assert years.inputs.tolist() == [[1, 2]] and years.target is None


def test_headers(tmp_path):
    """A line of names is a header, even if the column of the row numbers has none."""
    for text in (",width,kind\n0,1.5,cat\n", " ,width,kind\n0,1.5,cat\n"):
        assert table(tmp_path, text, target="kind").inputs.tolist() == [[0, 1.5]]
    for text in (",1\n2,3\n", "NA,cat\n1,dog\n", ",cat\n1,dog\n", ",,\n,,\n"):
        assert len(table(tmp_path, text, columns=[0]).inputs) == 2
    assert table(tmp_path, "a,b\n", columns=[]).inputs.shape == (0, 0)


@pytest.mark.parametrize("missing", [
    "", " ", '""', "NA", "na", "NaN", "nan", "n/a", "null", "None", "?"])
@pytest.mark.parametrize("target", ["kind", -1, 1])
def test_a_missing_label_is_no_class(tmp_path, missing, target):
    text = f"x,kind\n1,cat\n2,{missing}\n3,dog\n"
    with pytest.raises(ValueError, match=r"table.csv, line 3, column 'kind': .* missing.*remove"):
        table(tmp_path, text, target=target)
    with pytest.raises(ValueError, match=r"line 3, column 'y': .* missing"):
        table(tmp_path, f"x,y\n1,0\n2,{missing}\n", target="y")


def test_labels(tmp_path):
    text = 'x,kind\n1, cat \n2,"cat"\n3,2020-01-01\n4,1.2.3\n5,"a,b"\n'
    assert table(tmp_path, text, target=1).classes == ["1.2.3", "2020-01-01", "a,b", "cat"]
    assert table(tmp_path, "x,y\n1,1.0\n2,2e0\n", target=1).target.dtype == "int64"
    assert table(tmp_path, "x,y\n1,True\n2,False\n", target=1).target.tolist() == [1, 0]


@pytest.mark.parametrize("text, kwargs, message", [
    ("", {}, "the file is empty"),
    ("a,b\n1,2\n1\n", {}, "line 3: expected 2 cells, got 1"),
    ("a,b\n1,2\n1,x\n", {}, "line 3, column 'b': 'x' is not a number"),
    ("a,b\n1,2\n", {"target": "c"}, "no column 'c': .* a, b"),
    ("a,b\n1,2\n", {"columns": [2]}, "no column 2"),
    ("a,b\n1,1_000\n", {}, "line 2, column 'b': '1_000' is not a number"),
    ('a,b\n1,"1,000"\n', {}, "line 2, column 'b': '1,000' is not a number"),
    ('a,b\n1,"1,000.5"\n2,3\n', {"target": "b"}, "line 2, column 'b': '1,000.5' .* separators"),
    ("a;b\n1;1,5\n2;3\n", {"target": "b", "delimiter": ";"}, "column 'b': '1,5' .* separators"),
    ("a,b,a\n1,2,3\n", {"target": "a"}, "2 columns have the name 'a': .* index"),
    ("a,b,a\n1,2,3\n", {"columns": ["b", "a"]}, "2 columns have the name 'a'"),
    ('a,b\n1,"x\n2,y\n', {"target": "b"}, "line 3: unexpected end of data"),
    ("a,b\n1,2\n", {"delimiter": ""}, "delimiter must be one character, got ''"),
    ("a,b\n1,2\n", {"header": 0}, "header must be None, True or False, got 0"),
])
def test_csv_errors(tmp_path, text, kwargs, message):
    with pytest.raises(ValueError, match=message):
        table(tmp_path, text, **kwargs)


def test_duplicate_names_that_nothing_selects(tmp_path):
    assert table(tmp_path, "a,b,a\n1,2,3\n", target="b").columns == ["a", "a"]
    assert table(tmp_path, "a,b,a\n1,2,3\n", columns=[2]).inputs.tolist() == [[3]]


def test_csv_in_other_encodings(tmp_path):
    (tmp_path / "a.csv").write_bytes("a,kind\n1,Österreich\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a.csv: .* not UTF-8"):
        read_csv(tmp_path / "a.csv", target="kind")


# ---- images --------------------------------------------------------------------------------------


def folder_of_images(root, shapes):
    from PIL import Image

    for n, (name, shape) in enumerate(shapes):
        (root / name).mkdir(exist_ok=True)
        Image.fromarray(np.full(shape, 10 * n, np.uint8)).save(root / name / f"{n}.png")
    return root


def test_image_folder(backend, tmp_path):
    folder_of_images(tmp_path, [("dog", (4, 6, 3)), ("cat", (4, 6, 3)), ("dog", (4, 6))])
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    data = ImageFolder(tmp_path)
    assert (data.classes, data.targets) == (["cat", "dog"], [0, 1, 1])
    (x, y), = DataLoader(data, 3, num_workers=2)
    assert x.shape == (3, 3, 4, 6) and x.dtype == "uint8" and y.tolist() == [0, 1, 1]
    assert [int(v) for v in x.numpy()[:, 0, 0, 0]] == [10, 0, 20]
    image, _ = ImageFolder(tmp_path, transform=ToFloat(), mode="L", size=(2, 3))[2]
    assert image.shape == (1, 2, 3) and image.dtype == "float32"
    np.testing.assert_allclose(image, 20 / 255, rtol=1e-6)


def test_image_folder_errors(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no folder"):
        ImageFolder(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match="no images in cat"):
        ImageFolder(tmp_path)
    broken = tmp_path / "cat" / "broken.png"
    broken.write_bytes(b"not an image")
    with pytest.raises(OSError) as caught:
        ImageFolder(tmp_path)[0]
    assert caught.value.__notes__ == [f"while reading the image {broken}"]
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"gpuprop\[images\]"):
        read_image(broken)


def test_images_of_more_than_eight_bits(tmp_path):
    """Pillow would cut off their values at 255."""
    from PIL import Image

    for dtype in ("uint16", "int32", "float32"):
        Image.fromarray(np.full((2, 2), 300, dtype)).save(tmp_path / "a.tiff")
        with pytest.raises(ValueError, match="8 bits"):
            read_image(tmp_path / "a.tiff", "L")


# ---- augmentation --------------------------------------------------------------------------------

IMAGES = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)


def test_crop(backend):
    crop = RandomCrop((3, 4), padding=1)
    padded = np.pad(IMAGES, ((0, 0), (0, 0), (1, 1), (1, 1)))
    seen = set()
    for _ in range(60):
        for image, source in zip(crop(IMAGES), padded, strict=True):
            found = [(i, j) for i in range(4) for j in range(4)
                     if (source[:, i:i + 3, j:j + 4] == image).all()]
            assert len(found) == 1
            seen |= set(found)
    assert len(seen) == 16
    with pytest.raises(ValueError, match=r"\(9, 9\) is larger than .* \(4, 5\)"):
        RandomCrop(9)(IMAGES)


def test_flip(backend):
    before = IMAGES.copy()
    flip = RandomHorizontalFlip()
    unchanged = {tuple((flip(IMAGES) == IMAGES).all(axis=(1, 2, 3))) for _ in range(40)}
    assert unchanged == {(True, True), (True, False), (False, True), (False, False)}
    np.testing.assert_array_equal(RandomHorizontalFlip(1.0)(IMAGES), IMAGES[..., ::-1])
    np.testing.assert_array_equal(IMAGES, before)


def test_normalize_and_to_float():
    normalized = Normalize([0, 1, 2], [1, 2, 4])(IMAGES)
    np.testing.assert_allclose(normalized[1, 2], (IMAGES[1, 2] - 2) / 4)
    assert Normalize(0.1307, 0.3081)(IMAGES).dtype == "float32"
    scaled = ToFloat()(np.array([[[0, 255]]], np.uint8))
    assert scaled.dtype == "float32" and scaled.tolist() == [[[0, 1]]]
    scaled = ToFloat()(np.array([[[0, 2**31 - 1]]], np.int32))
    assert scaled.dtype == "float32" and scaled.tolist() == [[[0, 1]]]
    with pytest.raises(TypeError, match="ToFloat"):
        Normalize(0, 1)(IMAGES.astype("uint8"))
    with pytest.raises(ValueError, match="std must be positive"):
        Normalize(0, [1, 0])


def test_cutout(backend):
    ones = np.ones((200, 2, 8, 8), np.float32)
    out = Cutout(3)(ones)
    filled = (out == 0).sum(axis=(2, 3))
    assert (filled[:, 0] == filled[:, 1]).all() and set(filled[:, 0]) == {4, 6, 9} and ones.all()


def test_mixup(backend):
    x, labels = np.arange(6, dtype=np.float32)[:, None], np.array([0, 1, 2, 0, 1, 2])
    for alpha in (0.001, 0.2, 1.0, 50.0):
        mixed, soft = Mixup(alpha, num_classes=3)(x, labels)
        assert mixed.dtype == soft.dtype == "float32" and soft.shape == (6, 3)
        np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_allclose(mixed.sum(), x.sum(), rtol=1e-5)
    loss = F.cross_entropy(gpuprop.zeros(6, 3), gpuprop.tensor(soft))
    assert loss.item() == pytest.approx(np.log(3))
    with pytest.raises(ValueError, match="need num_classes"):
        Mixup(1)(x, labels)
    with pytest.raises(ValueError, match=r"label < num_classes = 2, .*from 0 to 2"):
        Mixup(1, 2)(x, labels)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixup_weights_have_the_beta_distribution(alpha):
    from scipy import stats

    rng = Generator(1)
    weights = [_symmetric_beta(alpha, rng) for _ in range(1000)]
    assert stats.kstest(weights, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_augmentation_in_a_loader_does_not_depend_on_workers(backend):
    images = np.random.default_rng(0).integers(0, 256, (10, 3, 8, 8), dtype=np.uint8)
    transform = Compose([RandomCrop(8, padding=2), RandomHorizontalFlip(), ToFloat(),
                         Normalize(0.5, 0.25), Cutout(4), Mixup(0.4, num_classes=5)])

    def epochs(**kwargs):
        gpuprop.manual_seed(0)
        dataset = ArrayDataset(images, np.arange(10) % 5)
        loader = DataLoader(dataset, 4, shuffle=True, transform=transform, **kwargs)
        return [(x.numpy(), y.numpy()) for _ in range(2) for x, y in loader]

    first = epochs()
    assert [x.shape for x, _ in first] == [(4, 3, 8, 8), (4, 3, 8, 8), (2, 3, 8, 8)] * 2
    for (x, y), (other_x, other_y) in zip(first, epochs(num_workers=3), strict=True):
        assert (x == other_x).all() and (y == other_y).all()


def test_single_images_and_wrong_shapes(backend):
    transform = Compose([RandomCrop(3), RandomHorizontalFlip()])
    assert transform(IMAGES[0]).shape == (3, 3, 3)
    image, label = transform(IMAGES[0], 7)
    assert image.shape == (3, 3, 3) and label == 7
    with pytest.raises(ValueError, match=r"images\[:, None\]"):
        transform(np.zeros((5, 28, 28)), np.zeros(5))
    with pytest.raises(ValueError, match=r"must be \(C, H, W\)"):
        transform(np.zeros(5))
    if backend.name != "numpy":
        with pytest.raises(TypeError, match="host memory"):
            transform(backend.asarray(IMAGES))
