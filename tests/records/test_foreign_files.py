"""Endless and huge files are not read, and changed records are refused (`make fuzz N=2000` tests many)."""

import json
import random
import resource
import struct
import subprocess
import sys

import pytest
from mutants import FRACTIONS, count, tell

from reproduce import files, yamlfile
from reproduce.packed import file as packed_file
from reproduce.packed.blocks import PackedError
from reproduce.records import read_record, runs


@pytest.mark.exhaustive
def test_endless_and_huge_files_are_not_read(tmp_path):
    endless, huge, folder = tmp_path / "endless", tmp_path / "huge", tmp_path / "folder"
    endless.symlink_to("/dev/zero")
    with open(huge, "wb") as file:
        file.truncate(10 * 2**40)
    folder.mkdir()
    reads = ((packed_file.load, PackedError), (read_record, ValueError), (yamlfile.read_yaml, yamlfile.SpecError))
    for read, kind in reads:
        for path, words in ((endless, "not a regular"), (huge, "bytes, more than"), (folder, "not a regular")):
            with pytest.raises(kind, match=words) as error:
                read(path)
            assert path.name in str(error.value) and "\n" not in str(error.value)
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34)), "timeout": 100}
    command = [sys.executable, "-m", "reproduce", "predict", str(endless)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=yamlfile.ROOT, **limited)
    assert (done.returncode, done.stderr) == (2, "reproduce: endless: not a regular file\n")


HUGE = [0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x00FFFFFF]


def damaged(rng, raw):
    """A changed file: bytes flipped, cut off, inserted or exchanged, lengths swapped or made huge."""
    raw = bytearray(raw)
    i, j = sorted(rng.randrange(len(raw)) for _ in range(2))
    kind = rng.randrange(9)
    if kind <= 1:
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        del raw[i:]
    elif kind == 3:
        raw[i:i] = rng.randbytes(rng.choice([1, 4, 100]))
    elif kind == 4:
        del raw[i : i + rng.choice([1, 2, 8, 1000])]
    elif kind == 5:
        raw[i : i + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(HUGE))
    elif kind == 6:
        raw[8:16] = struct.pack("<II", rng.choice(HUGE), rng.choice(HUGE)) if i % 2 else raw[12:16] + raw[8:12]
    elif kind == 7:
        raw[i:j], raw[-(j - i) or len(raw) :] = raw[-(j - i) or len(raw) :], raw[i:j]
    else:
        raw[j:] = raw[i : i + rng.randrange(200)] + raw[j:]
    return bytes(raw)


# --- records --------------------------------------------------------------------------------------------------


def sorted_content(raw):
    found = json.loads(raw)
    found.pop("sha256", None)
    return json.dumps(found, sort_keys=True)


def edited(rng, raw):
    """A record with one value changed as a person would, and everything else unchanged."""
    tree = json.loads(raw)
    places = []

    def walk(node):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(tree)
    node, key = rng.choice(places)
    value = node[key]
    if isinstance(value, bool) or value is None:
        node[key] = not value
    elif isinstance(value, int | float):
        node[key] = rng.choice([value + 1, value * 2 + 1, -value - 1, float(value) + 0.5, str(value)])
    elif isinstance(value, str):
        node[key] = value[:-1] + ("x" if value[-1:] != "x" else "y")
    elif isinstance(node, dict):
        del node[key]
    else:
        node.append(value)
    return (json.dumps(tree, indent=1) + "\n").encode()


def sealed_files():
    folders = [runs.PUBLISHED / "runs", runs.PUBLISHED / "check" / "calibration", runs.PUBLISHED / "kernels"]
    return [sorted(folder.glob("*.json"))[0] for folder in folders]


@FRACTIONS
@pytest.mark.timeout(3600)
def test_no_changed_record_is_accepted(tmp_path, fraction):
    n, refused, same = count() // fraction, 0, 0
    path = tmp_path / "record.json"
    sources = [(p, p.read_bytes()) for p in sealed_files()]
    for seed in range(n):
        rng = random.Random(seed)
        source, good = sources[seed % len(sources)]
        raw = (edited if rng.random() < 0.4 else damaged)(rng, good)
        path.write_bytes(raw)
        try:
            found = files.read_sealed(path)
        except ValueError as error:
            refused += 1
            assert str(error).isprintable() and str(error).startswith("record.json: ")
        else:
            assert json.dumps(found, sort_keys=True) == sorted_content(good), f"damage {seed} of {source.name}"
            same += 1
    tell("damaged records", tried=n, refused=refused, say_what_they_said=same)
    assert refused > 0.9 * n and same + refused == n
