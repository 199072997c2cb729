"""The figures' titles follow from the data and are in the drawings."""

import numpy as np
import pandas as pd
import pytest
from made_frames import FIGURES, NETS
from test_charts import drawn, title

from reproduce.report import wording
from reproduce.report.html import look
from reproduce.report.sections import ablations


def test_ratios_have_two_digits_and_equal_ones_are_given_once():
    assert wording.between([23.4, 1.06, 5.0]) == "1.1 to 23"
    assert wording.between([31.6, 32.4]) == "32" and wording.between([0.84]) == "0.8"


def test_test_errors_say_how_many_cells_were_run_and_how_they_end():
    frame = FIGURES["forest"]()
    (figure,) = drawn("forest", frame[frame["kind"] != "mean"])
    assert title(figure) == "Test error: none of 3 cells was run at the paper's scale yet"
    frame.loc[frame["verdict"] == "inconclusive", "verdict"] = "reproduced"
    assert wording.table1(frame).endswith("2 of 3 cells at the paper's scale: 2 reproduced")


def test_ratios_to_libraries_are_said_for_each_precision():
    frame = FIGURES["times"]()
    assert title(drawn("times", frame)[0]) == ("XNOR kernels are 21 × as fast as float32 libraries, 4.8 × int8")
    frame.loc[0, "value"], frame.loc[1, "kind"] = 0.5, "TF32"
    said = "XNOR kernels are 0.5 to 21 × as fast as float32 libraries, 4.8 × TF32, 4.8 × int8"
    assert wording.times(frame) == said


def test_what_a_library_computes_with():
    libraries = {"torch float32, end to end": "float32", "oneDNN float32 (by torch)": "float32"}
    libraries |= {"torch tf32": "TF32", "torch bfloat16": "bfloat16"}
    libraries |= {"torch int8 (_int_mm)": "int8", "onnxruntime MatMulInteger": "int8"}
    assert {candidate: wording.precision(candidate) for candidate in libraries} == libraries


def test_the_title_of_curves_gives_first_and_last_error_and_unfinished_runs():
    frame = FIGURES["curves"]()
    frame = frame[frame["net"] == NETS[2]]
    ours = frame["source"] == "ours"
    first, last = (12.5 + 40 * np.exp(-epoch / 10) for epoch in (1, 60))
    falls = f"{NETS[2]}: validation error falls from {first:.1f} to {last:.2f} % by epoch 60"
    assert wording.curve(NETS[2], frame[ours]) == falls
    short = frame[ours].assign(scale="short")
    assert "falls on a short schedule from" in wording.curve(NETS[2], short)
    half = frame[ours & (frame["epoch"] <= 30)].assign(source="unfinished")
    assert wording.curve(NETS[2], half).endswith(f"to {12.5 + 40 * np.exp(-3):.2f} % so far")
    rising = frame[ours].assign(value=-frame[ours]["value"])
    assert "does not fall from" in wording.curve(NETS[2], rising)


def test_kernels_of_the_first_layer_are_counted_map_by_map():
    frame = FIGURES["figure2a"](filters=4)
    frame.loc[frame["filter"] == 1, "sign"] = list(frame.loc[frame["filter"] == 0, "sign"])  # one kernel twice
    (figure,) = drawn("figure2a", frame)
    assert title(figure) == "9 of 12 kernels of the first layer are distinct within their input map"


@pytest.mark.parametrize(
    ("shift", "begin"), [(0, "More"), (-40, "Fewer"), ({"512 classes": -40}, "By some counts fewer")]
)
def test_unique_filters_are_compared_with_the_papers_figure(shift, begin):
    frame = FIGURES["figure2b"]()
    frame["fraction"] += shift if isinstance(shift, int) else frame["rule"].map(shift).fillna(0)
    (figure,) = drawn("figure2b", frame)
    assert title(figure).startswith(f"{begin} filters are unique than the paper's 42 %: ")
    means = sorted({48.5 + s for s in ([shift] if isinstance(shift, int) else [0, -40])})  # 30 + 5·3.5 + 1
    assert f": {wording.between(means)} % of a layer's on average; of random signs 60 to 80 %" in title(figure)


def speeds(*lines, source="ours", machine="M"):
    columns = ["candidate", "family", "seconds"]
    return pd.DataFrame(lines, columns=columns).assign(source=source, machine=machine)


PAPER = speeds(("cuBLAS", "library", 3.4), ("XNOR kernel", "xnor", 1.0), source="paper", machine="GTX 750")
KERNELS = (("xnor cuda-wgmma, kernel alone", "xnor", 0.1), ("xnor cuda-wgmma, with packing", "xnor", 0.5))


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ([], ""),
        ([("torch float32", "library", 10.0), *KERNELS], "; 20 on M (cuda-wgmma)"),
        (  # a library that rounds does not count as float32
            [("torch float32", "library", 5.0), ("torch tf32", "library", 1.0), *KERNELS],
            "; 10 on M (cuda-wgmma)",
        ),
        ([("torch float32", "library", 0.25), KERNELS[1]], "; 0.5 on M (cuda-wgmma)"),
        (
            [("naive float32", "naive", 25.0), KERNELS[1]],
            ". XNOR against a naive kernel: 50 times as fast on M (cuda-wgmma)",
        ),
        ([("torch float32", "library", 0.25)], ""),  # no kernel of ours
    ],
)
def test_speed_is_that_of_the_fastest_1_bit_kernel(ours, said):
    begin = "A product. XNOR against the best float32 library: 3.4 times as fast on GTX 750"
    assert wording.speed("a product", pd.concat([PAPER, speeds(*ours)])) == begin + said
    assert wording.speed("a product", speeds(("cuBLAS", "library", 3.4))) == "A product: no XNOR kernel was timed"


def test_each_panel_of_figure_3_says_its_ratios():
    frame = FIGURES["figure3"]()
    frame.loc[(frame["source"] == "ours") & (frame["family"] == "xnor"), "seconds"] = 0.05
    assert title(drawn("figure3", frame)[0]).startswith("Product of two 8192×8192 matrices. XNOR against the best")
    for figure in drawn("figure3", frame):
        assert title(figure).endswith("3.4 times as fast on GTX 750; 20 on A machine of ours, 2 cores")


def test_energy_says_how_much_less_the_binary_nets_take():
    frame = FIGURES["energy"]()
    said = "Bytes of the weights: 100 times less in fully binary nets than in float"
    assert title(drawn("energy", frame)[2]) == said
    frame.loc[frame["variant"] == "binary", "memory_uj"] = [200.0, 20.0]
    memory, weights = (title(figure) for figure in drawn("energy", frame)[1:])
    assert ": 10 to 200 times less in" in memory and ": 100 times less in" in weights
    (_, _, figure) = drawn("energy", frame[frame["variant"] != "binary"])
    assert title(figure) == "Bytes of the weights"


def test_ablations_say_their_verdicts_and_the_largest_difference():
    line = {"ablation": "mask", "arm": "no-mask", "against": "mask", "effect": 0.15}
    lines = [line | {"difference": 6.0, "low": 5.0, "high": 7.0, "verdict": "worse"}]
    lines += [line | {"arm": "other", "difference": -0.1, "low": -1.0, "high": 0.8, "verdict": "cannot be told"}]
    (one, both) = (title(ablations.forest(pd.DataFrame(some))) for some in (lines[1:], lines))
    assert one == "1 comparison: 1 cannot be told; the largest: other against mask, -0.10 points"
    assert both == ("2 comparisons: 1 worse, 1 cannot be told; the largest: no-mask against mask, +6.00 points")


def test_a_long_title_is_broken_and_makes_the_figure_higher():
    one, two = (look.titled(look.empty(), "word " * count) for count in (10, 12))
    assert "\n" not in one.get_suptitle() and two.get_suptitle().count("\n") == 1
    assert two.get_figheight() > one.get_figheight()
