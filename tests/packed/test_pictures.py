"""`reproduce predict --images`, and images from files in Python."""

import numpy as np
import pytest
from made import convnet_settings, made_cell, settings
from PIL import Image
from test_campaign import go
from test_freeze import run
from test_packed import evaluate, images_for, preprocessed, random_state

from reproduce.packed import PackedNet, freeze_net, from_run
from reproduce.packed.pictures import read_images
from reproduce.records import runs


@pytest.fixture(params=[settings, convnet_settings], ids=["mlp", "convnet"])
def made(request, tmp_path):
    """A packed net's file, five images, their scores in float64."""
    wanted = request.param()
    state = random_state(wanted, wild=False)
    freeze_net(wanted, state, (1 / 128, np.float32(-1))).save(tmp_path / "net.bnn")
    images = images_for(wanted, 5)
    return tmp_path / "net.bnn", images, evaluate(wanted, state, preprocessed(wanted, images, 1 / 128, -1.0))[1]


def lines(names, scores):
    shown = (" ".join(f"{score:.2f}" for score in each) for each in scores)
    each = zip(names, scores.argmax(1), shown, strict=True)
    return [f"{name}: class {found}; scores {words}" for name, found, words in each]


def test_a_png_a_folder_of_them_and_an_array_give_the_same(made, tmp_path):
    net, images, scores = made
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "notes.txt").write_text("no picture")
    names = ["b.png", "a.PNG", "d.png", "c.png", "e.png"]
    for name, image in zip(names, images, strict=True):
        Image.fromarray(image).save(folder / name)
    order = np.argsort(names)
    np.save(tmp_path / "all.npy", images)
    np.save(tmp_path / "one.npy", images[3])
    wanted = {
        folder: lines(sorted(names), scores[order]),
        folder / "d.png": lines(["d.png"], scores[2:3]),
        tmp_path / "all.npy": lines("01234", scores),
        tmp_path / "one.npy": lines("0", scores[3:4]),
    }
    for path, right in wanted.items():
        done = run("predict", net, "--images", path)
        assert done.exit_code == 0, done.output
        *found, time = done.output.splitlines()
        assert found == right
        assert time.startswith(f"{len(right)} images in ") and " ms each; cpu (" in time


def test_three_lines_of_python(made, tmp_path):
    file, images, scores = made
    np.save(tmp_path / "x.npy", images)
    net = PackedNet.load(str(file))
    classes = net.predict(read_images(str(tmp_path / "x.npy"), net.image))
    assert classes.tolist() == scores.argmax(1).tolist()


def test_images_that_do_not_fit_are_one_line(made, tmp_path):
    net, images, _ = made
    colour = images.ndim == 4
    size = images.shape[1]

    def refused(words, path):
        done = run("predict", net, "--images", path)
        assert done.exit_code == 2 and done.stderr.count("\n") == 1 and words in done.stderr, done.output

    takes = "32×32, RGB" if colour else "28×28, 8-bit grayscale"
    picture = Image.fromarray(images[0])
    wrong = {
        "wide.png": picture.resize((size + 1, size)),
        "mode.png": picture.convert("L" if colour else "RGB"),
        "alpha.png": picture.convert("RGBA"),
        "deep.png": picture.convert("I").convert("I;16"),
    }
    for name, each in wrong.items():
        each.save(tmp_path / name)
        refused(f"{name}: {each.width}×{size} of mode {each.mode}; the net takes {takes}", tmp_path / name)
    Image.fromarray(images[3]).save(tmp_path / "cut.png")
    for name, content in (("cut.png", (tmp_path / "cut.png").read_bytes()[:60]), ("text.png", b"text")):
        (tmp_path / name).write_bytes(content)
        refused(f"{name}: cannot be read as a PNG", tmp_path / name)
    shape = ", ".join(map(str, images.shape[1:]))
    for name, array, words in (
        ("flat", images.reshape(5, -1), f"; the net takes (N, {shape})"),
        ("floats", images / 255, f"floats.npy: float64 (5, {shape}); the net takes 8-bit images"),
        ("none", images[:0], f"none.npy: no images, shape (0, {shape})"),
        ("object", np.array([{}]), "object.npy: cannot be read"),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        refused(words, tmp_path / f"{name}.npy")
    (tmp_path / "empty").mkdir()
    refused("empty: no PNG in this folder", tmp_path / "empty")
    refused("none.png: no such file or folder", tmp_path / "none.png")
    (tmp_path / "x.jpg").write_bytes(b"x")
    refused("x.jpg: a PNG, a folder of PNGs or an .npy file is needed", tmp_path / "x.jpg")
    done = run("predict", net, "--images", tmp_path / "flat.npy", "--record", tmp_path)
    assert done.exit_code == 2 and "not of --images" in done.stderr


def test_images_for_a_net_of_real_inputs_are_preprocessed_as_in_its_training(tmp_path, data_folder):
    """The images are divided by the largest number of the test images, not by their own."""
    steps = [{"step": "range", "low": 0, "high": 1}, {"step": "zca", "bias": 0.1}, {"step": "divide_by_max"}]
    record = go(tmp_path, data_folder, [made_cell(train={"epochs": 1}, data={"preprocess": steps})]).records[0]
    path = from_run.freeze_run(record.stem, runs.Store(tmp_path), data_folder, print)
    net = PackedNet.load(path)
    images = np.load(data_folder / "mnist.npz")["x_test"][:200]
    of_test, _ = from_run.test_images(net, data_folder, print)
    np.save(tmp_path / "x.npy", images[20:23])
    _, found = from_run.given_images(net, tmp_path / "x.npy", data_folder, print)
    np.testing.assert_allclose(found, of_test[20:23], rtol=0, atol=1e-5)
    np.save(tmp_path / "x.npy", of_test[20:23])
    names, same = from_run.given_images(net, tmp_path / "x.npy", None, print)
    assert names == ["0", "1", "2"] and np.array_equal(same, of_test[20:23])
    done = run("predict", path, "--images", tmp_path / "x.npy")
    assert done.exit_code == 0 and done.output.startswith("0: class ")
