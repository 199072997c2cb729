"""Ablations: files of arms, the choice of learning rates, and the report's statements on pairs of runs."""

import dataclasses
import os
from collections import deque

import numpy as np
import pytest
import yaml
from made_store import made_run
from typer.testing import CliRunner

from reproduce import files, outcomes, report, spec, yamlfile
from reproduce import verdict_paired as paired
from reproduce.campaign import parallel, tuning, worker
from reproduce.campaign.wanted import Wanted, check_pairs, runs_wanted
from reproduce.cli import app as cli
from reproduce.records import read_records
from reproduce.report import claims
from reproduce.report.sections import ablations
from reproduce.training import step

CELLS = {cell.name: cell for cell in spec.cells(["ablations"])}
ARMS = [cell for cell in CELLS.values() if cell.ablation.against(cell.arm)]


# --- files ----------------------------------------------------------------------------------------------------


def test_every_arm_differs_from_its_reference_only_as_its_file_says():
    assert len(ARMS) >= 15
    for cell in ARMS:
        other = CELLS[f"{cell.name.rpartition('/')[0]}/{cell.ablation.against(cell.arm)}"]
        ours, theirs = (c.scales["small"].model_dump(mode="json") for c in (cell, other))
        assert ours != theirs, cell.name
        arms = cell.ablation.arms
        both = (arms[cell.arm], arms[other.arm])
        stated = {(p, k) for arm in both for p in ("data", "net", "train") for k in getattr(arm, p)}
        stated.add(("train", "rate"))
        differing = {(p, k) for p in ours for k in {*ours[p], *theirs[p]} if ours[p].get(k) != theirs[p].get(k)}
        assert differing <= stated, cell.name


def write(folder, **over):
    content = {
        "claim": "a claim",
        "source": "somewhere",
        "effect": 0.1,
        "seeds": 3,
        "rates": [0.001, 0.01],
        "base": "table1/bnn-theano-mnist",
        "common": {"net": {"hidden": [16]}, "train": {"epochs": 1}},
        "arms": {"one": {"rate": 0.01}, "two": {"rate": 0.001, "net": {"ste_mask": False}}},
    }
    for name in ("table1", "own"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    base = spec.EXPERIMENTS / "table1" / "bnn-theano-mnist.yaml"
    (folder / "table1" / base.name).write_text(base.read_text())
    path = folder / "own" / "question.yaml"
    path.write_text(yaml.safe_dump(content | over))
    return path


def test_arms_have_the_bases_settings_except_for_overrides(tmp_path):
    one, two = spec.load_all(write(tmp_path))
    assert (one.name, two.name) == ("own/question/one", "own/question/two")
    s, t = one.scales["small"], two.scales["small"]
    assert (s.net.hidden, s.train.epochs, s.train.batch) == ([16], 1, 100)
    assert s.net.ste_mask and not t.net.ste_mask
    assert (s.train.rate.start, t.train.rate.start) == (0.01, 0.001)
    for settings in (s, t):  # the base falls from 3e-3 to 3e-7
        assert settings.train.rate.end == pytest.approx(settings.train.rate.start * 1e-4)


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({"base": "table1/nothing"}, "base: no cell 'table1/nothing'"),
        ({"arms": {"one": {"rate": 0.5}, "two": {"rate": 0.01}}}, "arms.one.rate: 0.5 is none of the rates"),
        ({"arms": {"one": {"rate": 0.01, "against": "x"}, "two": {"rate": 0.01}}}, "arms.one.against: no arm 'x'"),
        ({"arms": {"one": {"rate": 0.01}}}, "arms"),
        ({"arms": {"one": {"rate": 0.01}, "two": {"rate": 0.01, "net": {"maks": 1}}}}, "unknown key"),
        ({"seeds": 2}, "seeds"),
        ({"clam": "x"}, "clam: unknown key; did you mean 'claim'?"),
    ],
)
def test_a_wrong_file_is_refused_with_the_key(tmp_path, over, words):
    path = write(tmp_path, **over)
    with pytest.raises(spec.SpecError, match=r"question\.yaml") as error:
        spec.load_all(path)
    assert words in str(error.value)


def test_arms_are_named_by_group_file_and_arm():
    assert [c.name for c in spec.cells(["ablations/mask"])] == ["ablations/mask/mask", "ablations/mask/no-mask"]
    assert [c.name for c in spec.cells(["ablations/mask/no-mask"])] == ["ablations/mask/no-mask"]
    with pytest.raises(spec.SpecError, match=r"no arm 'nomask' in .*mask\.yaml: mask, no-mask"):
        spec.cells(["ablations/mask/nomask"])


# --- learning rates -------------------------------------------------------------------------------------------


def trials(cell, errors):
    """Artificial runs of an arm's rates; an error of None stands for a failed run."""
    found = []
    for (rate, settings), error in zip(cell.tried.items(), errors, strict=True):
        other = cell.model_copy(update={"scales": {"small": settings}})
        record = made_run(other, "small", tuning.SEED, error or 0.0)
        broke = {"status": "failed", "failure": "not finite", "result": None}
        found.append(record.model_copy(update={"variant": f"rate-{rate:g}"} | (broke if error is None else {})))
    return found


def test_the_rate_with_the_least_validation_error_is_chosen():
    cell = CELLS["ablations/mask/no-mask"]
    grid = cell.ablation.rates
    assert tuning.best(cell, trials(cell, [3.0, 2.0, 2.5, None])) == grid[1]
    assert tuning.best(cell, trials(cell, [2.0, 2.0, 2.5, 9.0])) == grid[0]
    assert tuning.best(cell, trials(cell, [3.0, 2.0, 2.5, 1.9])[:-1]) is None


def test_tune_says_whether_each_file_has_the_best_rate_and_copies_only_the_projects_trials(tmp_path, monkeypatch):
    mask, no_mask = (CELLS[f"ablations/mask/{arm}"] for arm in ("mask", "no-mask"))
    assert mask.ablation.rates == [1e-3, 3e-3, 1e-2, 3e-2]
    assert {arm.rate for arm in mask.ablation.arms.values()} == {1e-2}
    own, _ = spec.load_all(write(tmp_path / "others", rates=[1e-3, 1e-2, 3e-2]))
    last, _ = spec.load_all(write(tmp_path / "last", rates=[1e-3, 1e-2]))
    best, other, at_the_end = [3.0, 2.0, 1.0, 2.0], [3.0, 1.0, 2.0, None], [3.0, 2.0, 1.5, 1.0]

    def tuned(errors, **over):
        copied, planned = tmp_path / f"copied-{len(list(tmp_path.glob('copied*')))}", []
        records = [record for cell, found in errors for record in trials(cell, found)]

        def carry_out(plan, store, *_, **__):
            store.prepare()
            planned.extend(plan)
            for record in records:
                store.write(record)
            done, failed = ([r for r in records if r.status == word] for word in ("finished", "failed"))
            return worker.Summary(records=done, failed=failed, **over)

        monkeypatch.setattr(parallel, "at_once", lambda *_: 1)
        monkeypatch.setattr(parallel, "use_threads", lambda _: None)
        monkeypatch.setattr(worker, "carry_out", carry_out)
        monkeypatch.setattr(tuning, "COMMITTED", copied)
        good = tuning.tune([cell for cell, _ in errors], tmp_path / "store", None)
        assert {(item.scale, item.seed) for item in planned} == {("small", tuning.SEED)}
        assert [item.variant for item in planned] == [r.variant for r in records]
        return good, sorted(path.stem for path in copied.glob("*")), sorted(r.stem for r in records)

    good, copied, made = tuned([(mask, best), (no_mask, best)])
    assert good is True and copied == made and len(made) == 8
    assert tuned([(mask, best), (no_mask, other)])[0] is False
    assert tuned([(mask, at_the_end)])[0] is False
    assert tuned([(last, [2.0, 1.0])])[0] is False  # the file has the best, which is at an end
    assert tuned([(mask, best)], missing={"mask": "no data"})[0] is None
    good, copied, _ = tuned([(own, [2.0, 1.0, 2.0])])
    assert good is True and copied == []


def test_trials_are_found_again_whatever_rate_is_in_the_file(tmp_path):
    grid = [0.001, 0.003, 0.01]
    seen = []
    for rate in grid:
        arms = {"one": {"rate": rate}, "two": {"rate": rate, "net": {"ste_mask": False}}}
        one, _ = spec.load_all(write(tmp_path, rates=grid, arms=arms))
        seen.append({r: settings.digest() for r, settings in one.tried.items()})
        assert one.scales["small"].digest() == seen[0][rate]
        assert [s.train.rate.start for s in one.tried.values()] == grid
    assert seen[0] == seen[1] == seen[2] and list(seen[0]) == grid


def test_of_trials_made_twice_the_newest_counts():
    cell = CELLS["ablations/mask/no-mask"]
    old, new = trials(cell, [3.0, 2.0, 2.5, 9.0]), trials(cell, [1.0, 2.0, 2.5, 9.0])
    old = [r.model_copy(update={"started": "2000-01-01T00:00:00+00:00"}) for r in old]
    grid = cell.ablation.rates
    assert tuning.best(cell, [*old, *new]) == tuning.best(cell, [*new, *old]) == grid[0]


def test_the_first_and_the_last_rate_are_at_an_end_of_the_grid():
    cell = CELLS["ablations/mask/no-mask"]
    assert [tuning.at_an_end(cell, rate) for rate in cell.ablation.rates] == [True, False, False, True]


def test_all_arms_of_a_file_are_trained_with_the_same_kind_of_products():
    of_file = {}
    for cell in CELLS.values():
        of_file.setdefault(cell.path.stem, []).append(cell)
    for name, cells in of_file.items():
        through_autograd = any(step.why_autograd(cell.scales["small"]) for cell in cells)
        assert (cells[0].ablation.products == "float32") == through_autograd, name


def test_arms_that_would_be_trained_in_different_ways_are_refused(tmp_path):
    arms = {"one": {"rate": 0.01}, "two": {"rate": 0.01, "net": {"activation": "sign_with_zero"}}}
    mixed = spec.load_all(write(tmp_path, arms=arms))
    assert [bool(step.why_autograd(cell.scales["small"])) for cell in mixed] == [False, True]
    with pytest.raises(ValueError, match=r"the steps of arm two go through autograd .*: add `products: float32`"):
        check_pairs(mixed)
    done = CliRunner().invoke(cli.app, ["tune", str(tmp_path / "own" / "question.yaml")])
    assert done.exit_code == 2 and "add `products: float32`" in done.stderr
    check_pairs(spec.load_all(write(tmp_path, arms=arms, products="float32")))
    check_pairs(list(CELLS.values()))


def test_the_base_of_an_own_ablation_may_be_the_projects(tmp_path):
    path = write(tmp_path)
    (tmp_path / "table1" / "bnn-theano-mnist.yaml").unlink()
    assert [c.arm for c in spec.load_all(path)] == ["one", "two"]


def test_a_wrong_override_of_an_arm_is_named(tmp_path):
    arms = {"one": {"rate": 0.01}, "two": {"rate": 0.01, "train": {"rate": 1.0}}}
    with pytest.raises(spec.SpecError, match=r"arms\.two\.train\.rate"):
        spec.load_all(write(tmp_path, arms=arms))


def test_the_products_of_an_ablation_are_set_while_its_runs_are_made(monkeypatch):
    monkeypatch.delenv("REPRODUCE_PRODUCTS", raising=False)
    plain, other = (
        Wanted(CELLS[f"ablations/{name}"], "small", 0, CELLS[f"ablations/{name}"].scales["small"])
        for name in ("mask/mask", "adamax/as-coded")
    )
    seen = []
    for _, item in worker._one_by_one(deque(enumerate([other, plain]))):
        seen.append((item, os.environ.get("REPRODUCE_PRODUCTS")))
    assert seen == [(other, "float32"), (plain, None)] and "REPRODUCE_PRODUCTS" not in os.environ


def test_each_arm_has_the_rate_that_its_committed_trials_chose():
    """Of an arm whose rates have not all been tried, nothing is chosen yet."""
    records = tuning.committed()
    best = {name: tuning.best(cell, records) for name, cell in CELLS.items()}
    chosen = {name: rate for name, rate in best.items() if rate is not None}
    assert chosen and chosen == {name: CELLS[name].ablation.arms[CELLS[name].arm].rate for name in chosen}


def test_committed_runs_of_an_arm_have_a_rate_that_was_chosen_by_trials():
    records = tuning.committed()
    ran = {r.cell for r in read_records(yamlfile.ROOT / "results" / "runs")[0]} & set(CELLS)
    assert ran and not [name for name in ran if tuning.best(CELLS[name], records) is None]


def test_the_page_calls_a_rate_chosen_if_all_were_tried_and_the_file_has_the_best(tmp_path, monkeypatch):
    cell = CELLS["ablations/mask/no-mask"]
    assert cell.ablation.arms[cell.arm].rate == cell.ablation.rates[2] == 1e-2

    def chosen(records):
        monkeypatch.setattr(tuning, "committed", lambda: records)
        found = ablations.tried(report.gather(tmp_path, [cell]))
        return found.loc[found["chosen"] != "", ["rate", "chosen"]].values.tolist()

    assert chosen(trials(cell, [3.0, 2.0, 1.0, 2.0])) == [[1e-2, "chosen"]]
    assert chosen(trials(cell, [3.0, 2.0, 1.0, 2.0])[:-1]) == []  # one has not been tried
    assert chosen(trials(cell, [3.0, 1.0, 2.0, 2.0])) == []  # another did better


# --- the report -----------------------------------------------------------------------------------------------


def store(folder, name, arms, seeds=8, images=10_000):
    """Artificial runs of an ablation's arms: error in percent by arm, wrong images drawn at random."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    drawn = {}
    for arm, error in arms.items():
        cell = CELLS[f"ablations/{name}/{arm}"]
        for seed in range(seeds):
            wrong = rng.random(images) < error / 100
            record = made_run(cell, "small", seed, 100 * wrong.mean())
            packed = outcomes.pack(wrong)
            update = {"wrong_best": packed, "test_error": 100 * int(wrong.sum()) / images}
            record = record.model_copy(update={"result": record.result.model_copy(update=update)})
            files.write_sealed(
                folder / "runs" / f"{record.stem}.json", record.model_dump(mode="json", exclude_none=True)
            )
            drawn[arm, seed] = wrong
    return drawn


def test_pairs_are_judged_and_the_verdicts_adjusted_for_the_number_of_all(tmp_path):
    drawn = store(tmp_path, "mask", {"mask": 1.5, "no-mask": 3.0})
    store(tmp_path, "clipping", {"clipped": 1.5, "not-clipped": 1.5}, seeds=12)
    store(tmp_path, "multiplier", {"multiplied": 1.5, "plain": 1.5}, seeds=5)
    found = ablations.frame(report.gather(tmp_path, report.cells())).set_index("arm")
    assert found.loc["no-mask", "verdict"] == "worse"
    assert found.loc["not-clipped", "verdict"] in ("no loss within the margin", "cannot be told")
    assert found.loc["plain", "verdict"] == "not judged: 5 of 8 seeds"
    assert np.isnan(found.loc["plain", "difference"])
    assert found.loc["sampled-512", "verdict"] == "not run"
    wrong = [np.stack([drawn[arm, seed] for seed in range(8)]) for arm in ("no-mask", "mask")]
    alone = paired.difference(*wrong, 0.15)
    line = found.loc["no-mask"]
    assert (line["difference"], line["low"], line["high"]) == pytest.approx((alone.mean, alone.low, alone.high))
    assert line["p_holm"] == pytest.approx(len(found) * line["p"])  # the surest of all, complete or not
    assert line["difference"] == pytest.approx(line["arm_error"] - line["against_error"])


def test_seeds_added_later_are_said_and_those_declared_at_first_judged_alone(tmp_path):
    arms = ("vanilla", "shift-norm", "shift-adamax", "both")
    drawn = store(tmp_path, "shift-based", dict(zip(arms, (1.5, 1.65, 1.5, 3.0), strict=True)), seeds=16)
    evidence = report.gather(tmp_path, report.cells())
    found = ablations.frame(evidence).set_index("arm")
    family, judged = len(found), arms[1:]
    made = {}
    for arm in judged:
        wrong = (np.stack([drawn[name, seed] for seed in range(8)]) for name in (arm, "vanilla"))
        made[arm] = paired.difference(*wrong, 0.15)
    others = [1.0] * (family - 3)
    p, p_loss = (
        paired.holm([*(getattr(made[arm], name) for arm in judged), *others])[:3] for name in ("p", "p_loss")
    )
    for arm, *values in zip(judged, p, p_loss, strict=True):
        assert found.loc[arm, "at_first"] == f"8: {paired.verdict(made[arm], *values)}"
    assert found.loc["both", "verdict"] == "worse" and found.loc["shift-norm", "seeds"] == 16
    text = ablations.section(evidence).text[1]
    assert "of shift-based the number was raised to 16 while runs were made" in text and "both worse" in text


def test_verdicts_are_by_the_p_values_adjusted_for_all_comparisons(tmp_path, monkeypatch):
    store(tmp_path, "mask", {"mask": 1.5, "no-mask": 1.5})
    sure = paired.Difference(8, mean=0.1, low=0.05, high=0.15, p=0.01, p_loss=0.011, found=0.1, error=0.02)
    monkeypatch.setattr(paired, "difference", lambda *_: sure)
    found = ablations.frame(report.gather(tmp_path, report.cells()))
    (line,) = found[found["difference"].notna()].to_dict("records")
    assert paired.verdict(sure, sure.p, sure.p_loss) == "no loss within the margin"  # alone
    assert line["verdict"] == "cannot be told" and len(found) > 9
    assert line["p_holm"] == pytest.approx(0.01 * len(found))
    assert line["p_loss_holm"] == pytest.approx(0.011 * len(found))


def test_the_section_of_an_empty_store_says_that_nothing_was_run(tmp_path):
    section = ablations.section(report.gather(tmp_path, report.cells()))
    assert "0 of" in section.text[0]
    table = section.parts[0]  # that of the rates, which are committed, may follow
    assert set(table.frame["verdict"]) == {"not run"}


def test_the_picture_has_a_line_for_every_judged_comparison(tmp_path):
    store(tmp_path, "mask", {"mask": 1.5, "no-mask": 3.0})
    store(tmp_path, "clipping", {"clipped": 1.5, "not-clipped": 1.5}, seeds=12)
    picture = ablations.section(report.gather(tmp_path, report.cells())).parts[0].svgs[0]
    assert "mask: no-mask against mask" in picture and "clipping: not-clipped against clipped" in picture
    assert "multiplier" not in picture


def test_runs_by_different_code_are_no_pairs(tmp_path):
    store(tmp_path, "mask", {"mask": 1.5, "no-mask": 3.0})
    evidence = report.gather(tmp_path, report.cells())
    arm, against = (CELLS[f"ablations/mask/{name}"] for name in ("no-mask", "mask"))
    other = [
        r.model_copy(update={"code": r.code | {"source": "f" * 64}}) if r.cell == arm.name and r.seed < 5 else r
        for r in evidence.runs
    ]
    found = ablations.pairs(dataclasses.replace(evidence, runs=tuple(other)), arm, against)
    assert [r.seed for r in found[0]] == [r.seed for r in found[1]] == [5, 6, 7]
    assert {r.code["source"] for side in found for r in side} == {evidence.runs[0].code["source"]}


def test_runs_in_different_modes_are_no_pairs_and_only_the_declared_number_counts(tmp_path):
    store(tmp_path, "mask", {"mask": 1.5, "no-mask": 3.0}, seeds=10)
    evidence = report.gather(tmp_path, report.cells())
    arm, against = (CELLS[f"ablations/mask/{name}"] for name in ("no-mask", "mask"))
    assert [r.seed for r in ablations.pairs(evidence, arm, against)[0]] == list(range(8))
    other = [
        r.model_copy(update={"code": r.code | {"mode": "torch"}}) if r.cell == arm.name and r.seed < 5 else r
        for r in evidence.runs
    ]
    found = ablations.pairs(dataclasses.replace(evidence, runs=tuple(other)), arm, against)
    assert [r.seed for r in found[0]] == [r.seed for r in found[1]] == list(range(5, 10))


def test_ablations_judge_the_papers_claims(tmp_path):
    store(tmp_path, "mask", {"mask": 1.5, "no-mask": 3.0})
    arms = ("vanilla", "shift-norm", "shift-adamax", "both")
    store(tmp_path, "shift-based", dict(zip(arms, (1.5, 3.0, 1.5, 1.5), strict=True)), seeds=16)
    found = claims.frame(report.gather(tmp_path, report.cells())).set_index("id")
    assert found.loc["no mask", "verdict"] == "holds for a small net"
    told = found.loc["shift-based"]
    by_arm = {line["brief"].split("(")[1].split(")")[0]: line["verdict"] for _, line in told.iterrows()}
    assert by_arm["shift-norm"] == "does not hold for a small net"
    assert set(by_arm) == set(arms[1:])
    assert by_arm["shift-adamax"] in ("holds for a small net", "cannot be told for a small net")


def test_runs_are_as_many_as_the_file_says():
    plan = runs_wanted(spec.cells(["ablations/mask", "table1/bnn-theano-mnist"]), "small", None, print)
    counts = {name: sum(item.cell.name == name for item in plan) for name in {item.cell.name for item in plan}}
    assert counts == {"ablations/mask/mask": 8, "ablations/mask/no-mask": 8, "table1/bnn-theano-mnist": 1}
    assert [item.seed for item in plan[-2:]] == [7, 7]
    later = runs_wanted(spec.cells(["ablations/mask"]), "small", None, print, 3)
    assert sorted({item.seed for item in later}) == list(range(3, 11))
