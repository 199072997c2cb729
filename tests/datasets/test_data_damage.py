"""Damaged data: every changed byte of a cached file or download is detected, or changes no pixel and no label.

Small data sets under the real names, through torchvision's own downloads (from a folder) and our cache.
"""

import dataclasses
import gzip
import hashlib
import http.server
import io
import pickle
import random
import struct
import tarfile
import threading
from functools import partial

import numpy as np
import pytest
import scipy.io
from made import change, made_images
from mutants import FRACTIONS, count, tell
from torchvision import datasets

from reproduce.datasets import DATASETS, data, fetch
from reproduce.datasets import svhn as svhn_module
from reproduce.datasets.description import as_bytes

TRAIN, TEST = 120, 40
SHAPE = {"mnist": (28, 28), "cifar10": (32, 32, 3), "svhn": (32, 32, 3)}


def made(name):
    x, y = made_images(TRAIN, SHAPE[name], len(name))
    x_test, y_test = made_images(TEST, SHAPE[name], 10 + len(name))
    return {"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test}


def idx(array):
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(head + array.tobytes())


def batch(x, y):
    rows = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    return pickle.dumps({"data": rows, "labels": y.tolist()}, protocol=2)


def mat(x, y):
    out = io.BytesIO()
    labels = np.where(y == 0, 10, y).reshape(-1, 1)
    scipy.io.savemat(out, {"X": x.transpose(1, 2, 3, 0), "y": labels}, do_compression=True)
    return out.getvalue()


def md5(content):
    return hashlib.md5(content).hexdigest()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def origin(tmp_path, monkeypatch):
    """A folder that torchvision downloads from, with the checksums that it expects; name -> files and arrays."""
    folder = tmp_path / "origin"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    arrays = {name: made(name) for name in SHAPE}
    for name, found in arrays.items():
        sources = [dataclasses.replace(s, place=url) for s in DATASETS[name].sources]
        digest = None if name == "svhn" else data.content_digest(found)
        change(monkeypatch, name, files={"train": TRAIN, "test": TEST}, sources=sources, digest=digest)
    known = {key: arrays["svhn"][key][:10000] for key in ("x_test", "y_test")}
    monkeypatch.setattr(svhn_module, "TEST10K", data.content_digest(known))
    files = {}
    a = arrays["mnist"]
    kinds = {"x": "images-idx3", "y": "labels-idx1"}
    parts = {"train": "train", "test": "t10k"}
    files["mnist"] = {f"{parts[p]}-{kinds[k]}-ubyte.gz": idx(a[f"{k}_{p}"]) for p in parts for k in kinds}
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{url}/"])
    resources = [(name, md5(files["mnist"][name])) for name in files["mnist"]]
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    a = arrays["cifar10"]
    members = {"data_batch_1": batch(a["x_train"], a["y_train"]), "test_batch": batch(a["x_test"], a["y_test"])}
    members["batches.meta"] = pickle.dumps({"label_names": list("0123456789")}, protocol=2)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    files["cifar10"] = {"cifar-10-python.tar.gz": out.getvalue()}
    cifar = datasets.CIFAR10
    monkeypatch.setattr(cifar, "url", f"{url}/cifar-10-python.tar.gz")
    monkeypatch.setattr(cifar, "tgz_md5", md5(out.getvalue()))
    monkeypatch.setattr(cifar, "train_list", [["data_batch_1", md5(members["data_batch_1"])]])
    monkeypatch.setattr(cifar, "test_list", [["test_batch", md5(members["test_batch"])]])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": md5(members["batches.meta"])})
    a = arrays["svhn"]
    half = {"train": slice(0, TRAIN // 2), "extra": slice(TRAIN // 2, TRAIN)}
    svhn = {f"{p}_32x32.mat": mat(a["x_train"][s], a["y_train"][s]) for p, s in half.items()}
    svhn["test_32x32.mat"] = mat(a["x_test"], a["y_test"])
    files["svhn"] = svhn
    listed = {n.split("_")[0]: [f"{url}/{n}", n, md5(c)] for n, c in svhn.items()}
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    for found in files.values():
        for name, content in found.items():
            (folder / name).write_bytes(content)
    change(monkeypatch, "mnist", sources=DATASETS["mnist"].sources[:1])  # no pip in tests
    yield folder, files, arrays
    server.shutdown()
    server.server_close()


def equal(dataset, arrays):
    return all(np.array_equal(dataset.arrays[key], arrays[key]) for key in arrays)


@pytest.mark.parametrize("name", SHAPE)
def test_the_undamaged_download_is_taken_and_cached(tmp_path, origin, name, monkeypatch):
    _, _, arrays = origin
    assert equal(fetch.load(name, tmp_path / "cache"), arrays[name])
    change(monkeypatch, name, sources=[])
    assert equal(fetch.load(name, tmp_path / "cache"), arrays[name])


@FRACTIONS
@pytest.mark.timeout(3600)
def test_every_changed_byte_is_caught(tmp_path, origin, monkeypatch, fraction):
    folder, files, arrays = origin
    sources = {name: found.sources for name, found in DATASETS.items()}
    cached = {}
    for name in SHAPE:
        fetch.load(name, tmp_path / "cache")
        cached[name] = (tmp_path / "cache" / f"{name}.npz").read_bytes()
    caught = {"cache": 0, "download": 0}
    harmless = 0
    n = count(120) // fraction
    for seed in range(n):
        rng = random.Random(seed)
        name = rng.choice(list(SHAPE))
        where = tmp_path / f"try-{seed}"
        if seed % 2:
            what, path = "cache", where / f"{name}.npz"
            good = cached[name]
            change(monkeypatch, name, sources=[])
        else:
            file = rng.choice(list(files[name]))
            what, path, good = "download", folder / file, files[name][file]
            change(monkeypatch, name, sources=sources[name])
        raw = bytearray(good)
        raw[rng.randrange(len(raw))] ^= rng.randrange(1, 256)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(raw)
        try:
            found = fetch.load(name, where)
        except data.DataError as error:
            caught[what] += 1
            assert str(error).isprintable()
        else:
            harmless += 1
            assert equal(found, arrays[name]), f"change {seed} of {path.name} was not noticed"
        finally:
            if what == "download":
                path.write_bytes(good)
    tell("changed bytes of data files", tried=n, **caught, in_no_pixel_and_no_label=harmless)
    assert harmless < 0.1 * n and min(caught.values()) > 0.8 * (n // 2)


@pytest.mark.timeout(3600)
def test_a_cache_cut_anywhere_is_replaced_by_the_next_call(tmp_path, origin, monkeypatch):
    _, _, arrays = origin
    fetch.load("mnist", tmp_path)
    path = tmp_path / "mnist.npz"
    good = path.read_bytes()
    rng = random.Random(0)
    for cut in [0, 1, len(good) - 1, *(rng.randrange(len(good)) for _ in range(count(60) // 10))]:
        path.write_bytes(good[:cut])
        said = []
        assert equal(fetch.load("mnist", tmp_path, said.append), arrays["mnist"])
        assert "set aside" in said[0] and path.read_bytes() == good
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(".mnist-")]


def test_another_data_set_under_the_right_name_is_refused_with_the_reason(tmp_path, origin, monkeypatch):
    _, _, arrays = origin
    for name, other in (("svhn", "cifar10"), ("cifar10", "svhn"), ("mnist", "cifar10")):
        digest = data.content_digest(arrays[other])  # the digest in the file is that of its content
        where = tmp_path / name
        where.mkdir()
        np.savez(where / f"{name}.npz", **arrays[other], digest=np.array(digest))
        change(monkeypatch, name, sources=[])
        with pytest.raises(data.DataError, match=f"content is not {name}'s|not uint8"):
            fetch.load(name, where)


def test_labels_and_pixels_out_of_range_are_refused_before_they_are_narrowed():
    x, y = made_images(5)
    for key, wrong in (("y", y.astype(np.int64) + 256), ("x", x.astype(np.int16) - 1), ("x", x + 0.5)):
        given = {"x": x, "y": y} | {key: wrong}
        with pytest.raises(data.DataError, match=f"{key}_train holds other numbers"):
            as_bytes(given["x"], given["y"], x, y)
    assert as_bytes(x.astype(np.float32), y.astype(np.int64), x, y)["y_train"].dtype == np.uint8
