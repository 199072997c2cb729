"""The figures show what their frames hold, and their SVG can stand in a page beside others."""

import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from made_frames import FIGURES, SERIES

from reproduce.report import charts, look, page

SVG = "{http://www.w3.org/2000/svg}"


def drawn(name, frame=None):
    return getattr(charts, name)(FIGURES[name]() if frame is None else frame)


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


@pytest.mark.parametrize("name", FIGURES)
def test_an_empty_frame_says_so(name):
    figure = drawn(name, FIGURES[name]().iloc[:0])
    assert "no record yet" in charts.svg(figure, name)


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_frame_gives_the_same_text_and_nothing_warns(name, recwarn):
    one, two = (charts.svg(drawn(name), name, "a picture") for _ in range(2))
    assert one == two
    assert not recwarn.list
    root = ElementTree.fromstring(one)
    assert root.get("role") == "img" and root.get("aria-label") == "a picture"
    assert not root.findall(f".//{SVG}metadata") and "<!--" not in one
    assert "Date" not in one and "atplotlib v" not in one


def test_ids_differ_between_figures_and_every_reference_is_met():
    ids = []
    for name in FIGURES:
        text = charts.svg(drawn(name), name)
        own = re.findall(r'\bid="([^"]+)"', text)
        referred = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)
        assert {a or b for a, b in referred} <= set(own)
        ids += own
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", FIGURES)
def test_colours_are_those_of_the_page(name):
    text = charts.svg(drawn(name), name)
    assert "currentColor" in text
    outside = re.sub(r"var\(--[a-z]+, #[0-9a-f]{6}\)", "", text)
    assert set(re.findall(r"#[0-9a-f]{6}\b", outside)) <= {"#ffffff"}  # hatches have a white ground of opacity 0


def test_letters_stay_letters_and_hostile_names_stay_text():
    frame = FIGURES["figure3"]()
    frame["machine"] = '</text><script>alert("$x^{$")</script>\x07'
    text = charts.svg(drawn("figure3", frame), "figure3")
    ElementTree.fromstring(text)
    assert "<script" not in text
    assert '&lt;/text&gt;&lt;script&gt;alert("$x^{$")' in text


def test_figure1_draws_our_means_and_bands_and_the_papers_ranges():
    frame = FIGURES["figure1"]()
    figure = drawn("figure1", frame)
    error, cost = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Validation error", "Training cost"]
    ours = frame[(frame["source"] == "ours") & (frame["quantity"] == "validation error")]
    curves = [line.get_ydata() for line in error.lines if len(line.get_ydata()) == 60]
    assert len(curves) == 3
    for curve, series in zip(curves, sorted(SERIES), strict=True):
        np.testing.assert_array_equal(curve, ours.loc[ours["series"] == series, "value"])
    ranges = [c for c in error.collections if isinstance(c, matplotlib.collections.LineCollection)]
    ends = sorted(tuple(segment[:, 1]) for c in ranges for segment in c.get_segments())
    assert ends == sorted([(25, 25)] * 3 + [(23, 25)] * 3 + [(11, 12), (12, 13), (13, 14)])
    arrows = [line for line in error.lines if line.get_marker() == "^"]
    assert [len(line.get_xdata()) for line in arrows] == [2, 2, 2]  # the points without an upper end
    bands = [c for c in cost.collections if isinstance(c, matplotlib.collections.PolyCollection)]
    assert len(bands) == 3
    assert error.get_ylim() == (0, 25)


def test_figure1_of_small_nets_has_no_paper_and_an_axis_of_its_own():
    figure = drawn("figure1", FIGURES["figure1"]("small", 6))
    assert figure.axes[0].get_ylim()[1] > 25
    assert not any("paper" in text for text in texts(figure))


def test_figure2a_has_a_tile_a_kernel_with_its_signs():
    frame = FIGURES["figure2a"]()
    figure = drawn("figure2a", frame)
    assert len(figure.axes) == 3
    for number, axes in enumerate(figure.axes):
        picture = axes.images[0].get_array()[::8, ::8]
        shown = picture[picture[..., 3] > 0][:, 0]  # red of every cell of a kernel
        signs = frame.loc[frame["map"] == number, "sign"]
        light = np.isclose(shown, matplotlib.colors.to_rgb(look.LIGHT)[0])
        assert (light.sum(), (~light).sum()) == ((signs > 0).sum(), (signs < 0).sum())
        kernels = frame[frame["map"] == number].sort_values(["filter", "y", "x"])["sign"].to_numpy().reshape(-1, 9)
        assert axes.get_title(loc="left").endswith(f"{len(np.unique(kernels, axis=0))} distinct of 32")


def test_figure2b_has_every_count_under_its_rule():
    frame = FIGURES["figure2b"]()
    figure = drawn("figure2b", frame)
    for axes in figure.axes:
        rule = axes.get_title(loc="left")
        shown = sorted(y for line in axes.lines for y in line.get_ydata() if line.get_marker() in "os")
        assert shown == sorted(frame.loc[frame["rule"] == rule, "fraction"])
        assert [42.0, 42.0] in [list(line.get_ydata()) for line in axes.lines]
    assert "the paper's 42 %" in texts(figure)


def test_figure3_puts_the_papers_bars_first_and_says_each_ratio():
    frame = FIGURES["figure3"]()
    figure = drawn("figure3", frame)
    assert len(figure.axes) == 2
    for axes in figure.axes:
        ends = [patch.get_x() + patch.get_width() for patch in axes.patches]
        assert ends == pytest.approx([6.8, 1, 0.29] * 2)
        words = [text.get_text() for text in axes.texts]
        assert words.index("GTX 750") < words.index("A machine of ours, 2 cores")
        labels = [text.get_text().replace("\n", " ") for text in axes.get_yticklabels()]
        assert labels == ["naive", "a library", "xnor", "naive (timed once, scaled)", "a library", "xnor"]
        assert words.count("290 ms · 23×") == 2 and words.count("1 s · 6.8×") == 2 and words.count("6.8 s") == 2


def test_energy_has_a_bar_for_every_net_and_variant():
    frame = FIGURES["energy"]()
    figure = drawn("energy", frame)
    for axes, column in zip(figure.axes, ("compute_uj", "memory_uj", "bytes"), strict=True):
        ends = [patch.get_x() + patch.get_width() for patch in axes.patches]
        factor = 1 if column == "bytes" else 1e-6
        assert ends == pytest.approx(list(frame[column] * factor))
    assert "170 µJ" in texts(figure) and "100 MB" in texts(figure)


@pytest.mark.parametrize("looks", [charts.FAMILIES, charts.VARIANTS])
def test_bars_that_look_alike_in_grey_differ_in_hatch(looks):
    filled = [hatch for colour, hatch in looks.values() if colour != "none"]
    assert len(set(filled)) == len(filled)


def test_curves_differ_in_line_and_marker():
    assert len({line for _, line, _ in charts.CURVES.values()}) == len(charts.CURVES)
    assert len({marker for *_, marker in charts.CURVES.values()}) == len(charts.CURVES)


def luminance(colour):
    """Relative luminance by WCAG 2.2."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, two):
    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_palette_stands_out_from_the_page_in_light_and_dark():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    style = (page.HERE / "page.css").read_text()
    light, dark = re.findall(r"--paper: (#[0-9a-f]{6})", style)
    for colour, variable in look.VARIABLES.items():
        at_night = re.search(rf"--{variable}: (#[0-9a-f]{{6}})", style).group(1)
        assert contrast(colour, light) >= 3
        assert contrast(at_night, dark) >= 3
