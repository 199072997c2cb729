"""Runs and their records: one immutable JSON each, what it is keyed by, and the stores they lie in.

A store is a folder: `runs/` holds finished records, `work/` checkpoints and locks, `nets/` the trained weights.
The user's own store (`results/local/`) is skipped from; the committed one (`results/runs/`) is evidence only.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from reproduce import machine, spec, yamlfile
from reproduce.data import Dataset

LONGEST = 2**26  # bytes of a record
FORMAT = 1  # of the records below; a record of another is named and left out
LOCAL = yamlfile.ROOT / "results" / "local"
PUBLISHED = yamlfile.ROOT / "results"


# Upper bounds that no run reaches: what is above is no measurement, and would break sums and axes.
MANY = 10**9
Count = Annotated[int, Field(ge=1, le=MANY)]
Wrong = Annotated[int, Field(ge=0, le=MANY)]
Seconds = Annotated[float, Field(ge=0, le=MANY)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Loss = Annotated[float, Field(ge=0, le=3.5e38)]  # the largest float32
Maps = Annotated[int, Field(ge=1, le=2**14)]
Percent = Annotated[float, Field(ge=0, le=100)]
Text = Annotated[str, Field(max_length=10_000)]  # with a length, half characters (lone surrogates) are refused


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Known(BaseModel):
    """What is read of a part that may hold more."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class Machine(Known):
    """Where a run was made; `name` is how tables call it."""

    name: str = Field(min_length=1, max_length=200)
    cores: Count
    threads: Count
    kernel_threads: Count = 1


class Code(Known):
    """Git revision, whether the code differed from it, digest of the training source."""

    revision: Text | None
    dirty: bool | None
    source: Text


def explained(error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    first = error.errors(include_url=False)[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))


def _with(model: type[Known]) -> AfterValidator:
    """A check that an open dict holds what the model wants; the dict stays as it is."""

    def check(found: dict[str, Any]) -> dict[str, Any]:
        try:
            model.model_validate(found)
        except ValidationError as error:
            raise ValueError(explained(error)) from None
        return found

    return AfterValidator(check)


class EpochRow(_Frozen):
    """One epoch: rate, mean training cost, wrong images; test figures only where the protocol reads them."""

    epoch: Count
    rate: float = Field(ge=0)
    train_loss: Loss
    valid_wrong: Wrong
    valid_loss: Loss
    test_wrong: Wrong | None = None
    test_loss: Loss | None = None
    seconds: Seconds


class DataHash(_Frozen):
    name: Text
    digest: Text
    order: Text


class Result(_Frozen):
    """Errors in percent: at the best validation epoch (the paper's protocol) and at the last epoch."""

    best_epoch: Count
    valid_error: Percent
    test_error: Percent
    last_test_error: Percent
    valid_images: Count
    test_images: Count


Share = Annotated[float, Field(gt=0, le=1)]


class LayerFilters(_Frozen):
    """Shares of distinct kernels in a binary convolution (`filters.layer`)."""

    maps_in: Maps
    maps_out: Maps
    kernel: int = Field(ge=1, le=31)
    distinct: Share
    distinct_up_to_sign: Share


class Filters(_Frozen):
    """A net's binary convolutions: counts of each, and the signs of the first one's (`filters.of_net`)."""

    layers: list[LayerFilters] = Field(min_length=1, max_length=64)
    first: list[Annotated[str, Field(pattern="^[01]+$")]]

    @model_validator(mode="after")
    def _of_one_size(self) -> Filters:
        head = self.layers[0]
        if head.maps_in > 4:
            raise ValueError("layers: the first reads more maps than an image has")
        if len(self.first) != head.maps_out or {len(f) for f in self.first} != {head.maps_in * head.kernel**2}:
            raise ValueError("first: not the filters of the first layer")
        return self


class Record(_Frozen):
    """What one run was and gave."""

    format: Literal[1]
    cell: Text
    scale: spec.Scale
    seed: Seed
    variant: Text | None = None
    """Name of the mutant, where one was trained on purpose (`make check-small-mutants`)."""
    key: Text
    status: Literal["finished", "failed"]
    failure: Text | None = None
    settings: dict[str, Any]
    settings_digest: Text
    data: DataHash
    code: Annotated[dict[str, Any], _with(Code)]
    machine: Annotated[dict[str, Any], _with(Machine)]
    libraries: dict[str, str]
    started: Text
    seconds: Seconds
    weights: int | None = Field(default=None, ge=1, le=2**40)
    parameters: int | None = Field(default=None, ge=1, le=2**40)
    weights_sha256: Text | None = None
    """Of the trained net (`weights.digest`); None where a run broke off, and in older records."""
    result: Result | None = None
    filters: Filters | None = None
    """None where there is no binary convolution, and in records made before they were counted."""
    curve: list[EpochRow]
    unsealed: bool = Field(default=False, exclude=True)
    """Read from a file without a checksum."""

    @model_validator(mode="after")
    def _whole(self) -> Record:
        result = self.result
        if (self.status == "finished") != (result is not None):
            raise ValueError("result and status contradict")
        data = self.settings.get("data")
        if isinstance(data, dict) and data.get("name") != self.data.name:
            raise ValueError("data.name is not its settings'")
        if result and not self.curve:
            raise ValueError("curve: empty")
        if result and any(row.valid_wrong > result.valid_images for row in self.curve):
            raise ValueError("curve: more wrong images than there are")
        return self

    @property
    def stem(self) -> str:
        return stem(self.cell, self.scale, self.seed, self.key, self.variant)


def stem(cell: str, scale: str, seed: int, key: str, variant: str | None = None) -> str:
    """File name of a run, without its ending."""
    variation = f"-{variant}" if variant else ""
    return f"{cell.replace('/', '-')}-{scale}{variation}-seed{seed}-{key[:12]}"


def key_of(settings: str, scale: str, seed: int, data: str, order: str, source: str) -> str:
    """sha256 of settings, scale, seed, data (content and order) and training source; all but two are digests."""
    return hashlib.sha256("/".join([settings, scale, str(seed), data, order, source]).encode()).hexdigest()


@dataclass(frozen=True)
class Run:
    """One cell, scale and seed, with the data it is to be trained on."""

    cell: spec.Cell
    scale: spec.Scale
    seed: int
    settings: spec.Settings
    dataset: Dataset
    variant: str | None = None

    @property
    def key(self) -> str:
        data = self.dataset
        settings = self.settings.digest()
        return key_of(settings, self.scale, self.seed, data.digest, data.order, machine.source_digest())

    @property
    def stem(self) -> str:
        return stem(self.cell.name, self.scale, self.seed, self.key, self.variant)

    def record(self, device: str, started: str, seconds: float, **rest: Any) -> Record:
        """A record of this run; `rest` gives status, curve and, if it finished, the result."""
        return Record(
            format=1,
            cell=self.cell.name,
            scale=self.scale,
            seed=self.seed,
            variant=self.variant,
            key=self.key,
            settings=self.settings.model_dump(mode="json"),
            settings_digest=self.settings.digest(),
            data=DataHash(name=self.dataset.name, digest=self.dataset.digest, order=self.dataset.order),
            code=machine.code(),
            machine=machine.machine(device),
            libraries=machine.libraries(),
            started=started,
            seconds=seconds,
            **rest,
        )


class Store:
    """A folder of runs. Raises OSError where it cannot be written."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def prepare(self) -> None:
        for name in ("runs", "work", "nets"):
            (self.root / name).mkdir(parents=True, exist_ok=True)

    def finished(self, run: Run) -> Record | None:
        """The record of this very run, if it is there, readable and its own."""
        path = self.runs / f"{run.stem}.json"
        try:
            record = read(path)
        except (OSError, ValueError):
            return None
        return record if record.key == run.key and record.status == "finished" else None

    def unusable(self, run: Run) -> str | None:
        """What is wrong with the file under this run's name, in a line; None if nothing, or there is none."""
        path = self.runs / f"{run.stem}.json"
        try:
            record = read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"{path.name}: {error.strerror}"
        except ValueError as error:
            return str(error)
        return None if record.key == run.key else f"{path.name}: of another run"

    def broken(self, run: Run) -> Record | None:
        """The record of this very run if it broke off."""
        try:
            record = read(self.runs / f"{run.stem}.json")
        except (OSError, ValueError):
            return None
        return record if record.key == run.key and record.status == "failed" else None

    def checkpoint(self, run: Run) -> Path:
        return self.root / "work" / f"{run.stem}.ckpt"

    def lock(self, run: Run) -> Path:
        return self.root / "work" / f"{run.stem}.lock"

    def tidy(self, run: Run, done: bool) -> None:
        """Remove what killed processes left of this run, whose lock is held; with `done` its checkpoint too."""
        left = [*(self.root / "work").glob(f"{run.stem}.*.tmp")]
        left += [p for folder in ("runs", "nets") for p in (self.root / folder).glob(f".{run.stem}.*")]
        for path in [*left, *([self.checkpoint(run)] if done else [])]:
            path.unlink(missing_ok=True)

    def net(self, stem: str) -> Path:
        return self.root / "nets" / f"{stem}.pt"

    def write(self, record: Record) -> Path:
        """Write a record under a scratch name, then rename it: it is there whole or not at all."""
        path = self.runs / f"{record.stem}.json"
        write_sealed(path, record.model_dump(mode="json", exclude_none=True))
        return path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes to `path` by way of a scratch file beside it: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(scratch, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


# --- what protects a record's content -------------------------------------------------------------------------

SEAL = "sha256"
_MARK = "sha256:"


def seal(content: dict[str, Any]) -> str:
    """The sha256 of a record's content, whatever the order of its keys and the white space between them."""
    rest = {key: value for key, value in content.items() if key != SEAL}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return _MARK + hashlib.sha256(text.encode()).hexdigest()


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write a record with the checksum of its content, whole or not at all."""
    write_whole(path, json.dumps(content | {SEAL: seal(content)}, indent=1, allow_nan=False) + "\n")


def read_sealed(path: Path) -> tuple[dict[str, Any], bool]:
    """A record's content without its checksum, and whether it had one.

    ValueError (one line) if it is no JSON object, or its checksum does not fit; OSError if it cannot be read.
    """
    try:
        raw = yamlfile.whole_file(path, LONGEST)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    try:
        content = json.loads(raw.decode(encoding="utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except _NotJSON as error:
        raise ValueError(f"{path.name}: not valid JSON ({error})") from None
    except (ValueError, RecursionError) as error:  # JSONDecodeError, UnicodeDecodeError, a number too long
        raise ValueError(f"{path.name}: not valid JSON ({type(error).__name__})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path.name}: not a record")
    given = content.pop(SEAL, None)
    if given is None and any(isinstance(v, str) and v.startswith(_MARK) for v in content.values()):
        raise ValueError(f"{path.name}: damaged: its checksum has another name")
    try:
        fits = given is None or given == seal(content)
    except (UnicodeEncodeError, ValueError, RecursionError):
        fits = False
    if not fits:
        raise ValueError(f"{path.name}: damaged: its checksum does not fit")
    return content, given is not None


class _NotJSON(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _NotJSON("a key stands twice")
    return found


def _no_number(word: str) -> Any:
    raise _NotJSON(word)


def read(path: Path) -> Record:
    """A record from its file. ValueError (one line) if it is not a sound record of this format.

    Records made before there were checksums are read if what they say twice agrees; `unsealed` marks them.
    """
    content, sealed = read_sealed(path)
    if content.get("format") != FORMAT:
        given = yamlfile.short(content.get("format"))
        raise ValueError(f"{path.name}: record format {given}, this version reads {FORMAT}")
    try:
        record = Record.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"{path.name}: {explained(error)}") from None
    if sealed:
        return record
    if wrong := _contradiction(record):
        raise ValueError(f"{path.name}: damaged: {wrong}")
    return record.model_copy(update={"unsealed": True})


def _contradiction(record: Record) -> str | None:
    """What a record says twice and differently, or None."""
    digest = hashlib.sha256(json.dumps(record.settings, sort_keys=True).encode()).hexdigest()
    if digest != record.settings_digest:
        return "settings_digest is not its settings'"
    source = str(record.code.get("source"))
    if key_of(digest, record.scale, record.seed, record.data.digest, record.data.order, source) != record.key:
        return "key is not that of its settings, seed and data"
    if [row.epoch for row in record.curve] != list(range(1, len(record.curve) + 1)):
        return "curve: its epochs are not 1, 2, …"
    result = record.result
    if result is None:
        return None
    if not 1 <= result.best_epoch <= len(record.curve):
        return "result.best_epoch is not in the curve"
    best, last = record.curve[result.best_epoch - 1], record.curve[-1]
    for name, said, wrong, images in (
        ("valid_error", result.valid_error, best.valid_wrong, result.valid_images),
        ("test_error", result.test_error, best.test_wrong, result.test_images),
        ("last_test_error", result.last_test_error, last.test_wrong, result.test_images),
    ):
        if wrong is None or images < 1 or said != 100 * wrong / images:
            return f"result.{name} is not the curve's"
    return None


def read_all(folder: Path) -> tuple[list[Record], list[str]]:
    """All sound records of a folder, in the order of their names, and a line for each file left out."""
    records, problems = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(read(path))
        except (OSError, ValueError) as error:
            problems.append(str(error))
    return records, problems


def publish(source: Store, target: Path, say: Any = print) -> int:
    """Copy runs that are new into `target`, those that broke off too, but no mutants; how many were copied.

    What is there stays as it is, but for a broken run that has finished since. What is damaged, here or there, and
    a record under another's name are told and left as they are.
    """
    target.mkdir(parents=True, exist_ok=True)
    copied = 0
    for path in sorted(source.runs.glob("*.json")):
        try:
            record = read(path)
            if record.stem != path.stem:
                raise ValueError(f"{path.name}: not its own name, it holds {record.stem}")
        except OSError as error:
            say(f"left out: {path.name}: {error.strerror}")
            continue
        except ValueError as error:
            say(f"left out: {error}")
            continue
        destination = target / path.name
        if record.variant:
            continue
        try:
            if destination.exists() and not _finished_since(record, read(destination)):
                continue
        except ValueError as error:
            say(f"left out: what is published there is no sound record ({error}); remove it to publish yours")
            continue
        if record.code["dirty"]:
            say(f"note: {path.name} was made by code that differs from its revision")
        if record.status == "failed":
            say(f"note: {path.name} broke off: {record.failure}")
        write_whole(destination, path.read_bytes())
        copied += 1
    return copied


def _finished_since(record: Record, published: Record) -> bool:
    """Whether a published run broke off and `record` has carried it to its end."""
    return record.status == "finished" and published.status == "failed"


def now() -> str:
    """The time, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
