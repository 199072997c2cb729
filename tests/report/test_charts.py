"""The figures show the data of their frames, and several of their SVGs can be in one page."""

import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from made_frames import FIGURES, NETS
from sample import sample

from reproduce.report.html import charts, look, overview, page

SVG = "{http://www.w3.org/2000/svg}"


def drawn(name, frame=None):
    """The drawings of a figure: one or several."""
    draw = getattr(overview if name in ("forest", "times") else charts, name)
    found = draw(FIGURES[name]() if frame is None else frame)
    return found if isinstance(found, list) else [found]


def svgs(name, frame=None, alt=""):
    return [look.svg(figure, f"{name}-{i}", alt) for i, figure in enumerate(drawn(name, frame))]


def title(figure):
    """A figure's title in one line."""
    return figure.get_suptitle().replace("\n", " ")


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_without_data_says_so(name):
    (text,) = svgs(name, FIGURES[name]().iloc[:0])
    assert "no record yet" in text


@pytest.mark.parametrize("name", sample(FIGURES, 2))
def test_the_same_frame_gives_the_same_text_and_nothing_warns(name, recwarn):
    one, two = (svgs(name, alt="a picture") for _ in range(2))
    assert one == two
    assert not recwarn.list
    one = one[0]
    root = ElementTree.fromstring(one)
    assert root.get("role") == "img" and root.get("aria-label") == "a picture"
    assert not root.findall(f".//{SVG}metadata") and "<!--" not in one
    assert "Date" not in one and "atplotlib v" not in one


def test_ids_differ_between_figures_and_every_reference_is_met():
    ids = []
    for text in (text for name in FIGURES for text in svgs(name)):
        own = re.findall(r'\bid="([^"]+)"', text)
        referred = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)
        assert {a or b for a, b in referred} <= set(own)
        ids += own
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", sample(FIGURES, 2))
def test_colours_are_those_of_the_page(name):
    text = "".join(svgs(name))
    assert "currentColor" in text
    outside = re.sub(r"var\(--[a-z]+, #[0-9a-f]{6}\)", "", text)
    assert set(re.findall(r"#[0-9a-f]{6}\b", outside)) <= {"#ffffff"}  # hatches have a white ground of opacity 0


def test_text_stays_text_and_hostile_names_are_escaped():
    frame = FIGURES["figure3"]()
    frame["machine"] = '</text><script>alert("$x^{$")</script>\x07'
    text = svgs("figure3", frame)[0]
    ElementTree.fromstring(text)
    assert "<script" not in text
    assert '&lt;/text&gt;&lt;script&gt;alert("$x^{$")' in text


def test_curves_draw_every_run_and_the_papers_ranges():
    frame = FIGURES["curves"]()
    figures = drawn("curves", frame)
    titles = [title(figure) for figure in figures]
    assert [title.split(": ")[0] for title in titles] == list(NETS)
    for number, (net, figure) in enumerate(zip(NETS, figures, strict=True)):
        of_net = frame[(frame["net"] == net) & (frame["source"] == "ours")]
        for axes, quantity in zip(figure.axes, ("validation error", "training cost"), strict=True):
            shown = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == 60]
            own = of_net[of_net["quantity"] == quantity]
            np.testing.assert_array_equal(shown, [own.loc[own["run"] == run, "value"] for run in ("one", "two")])
        error = figure.axes[0]
        ranges = [c for c in error.collections if isinstance(c, matplotlib.collections.LineCollection)]
        ends = sorted(tuple(segment[:, 1]) for c in ranges for segment in c.get_segments())
        assert ends == sorted([(25, 25), (23, 25), (11 + number, 12 + number)])
        assert [len(line.get_xdata()) for line in error.lines if line.get_marker() == "^"] == [2]
    mean = 10.5 + 40 * np.exp(-6)  # of both runs' last
    assert f"to {mean:.2f} % by epoch 60; the paper's is 11 to 12 % at epoch 60" in titles[0]


def test_a_net_that_was_not_run_has_the_papers_points_alone():
    frame = FIGURES["curves"]()
    (figure,) = drawn("curves", frame[(frame["net"] == NETS[0]) & (frame["source"] == "paper")])
    assert len(figure.axes) == 1
    assert title(figure) == f"{NETS[0]}: not run here; the paper's error is 11 to 12 % at epoch 60"


def test_forest_has_the_papers_noise_our_interval_and_every_seed():
    frame = FIGURES["forest"]()
    (figure,) = drawn("forest", frame)
    (axes,) = figure.axes
    spans = [tuple(s[:, 0]) for c in axes.collections for s in c.get_segments() if s[0, 1] == s[1, 1]]
    wanted = frame[frame["kind"].isin(("paper", "mean")) & frame["low"].notna()]
    assert sorted(spans) == sorted(zip(wanted["low"], wanted["high"], strict=True))
    seeds = [x for line in axes.lines if line.get_marker() == "." for x in line.get_xdata()]
    assert sorted(seeds) == sorted(frame.loc[frame["kind"] == "seed", "value"])
    full = [line for line in axes.lines if line.get_marker() == "D"]
    assert {line.get_color() for line in full} == {look.GREEN, look.PURPLE}  # reproduced, inconclusive
    hollow = [line for line in axes.lines if line.get_marker() == "s"]
    assert len(hollow) == 3 and all(line.get_markerfacecolor() == "none" for line in hollow)
    assert all(line.get_markersize() < full[0].get_markersize() for line in hollow)
    words = {text.get_text(): text for text in axes.texts}
    assert words["not run: ~26 hours"].get_alpha() < 1 and words["reproduced"].get_weight() == "bold"
    assert title(figure) == "Test error: 2 of 3 cells at the paper's scale: 1 reproduced, 1 inconclusive"


def test_the_times_figure_has_every_ratio_and_the_papers_factors():
    (figure,) = drawn("times")
    (axes,) = figure.axes
    marks = sorted(float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() in ("s", "D"))
    assert marks == [4.8] * 4 + [21.0] * 4
    dashed = sorted(line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2)
    assert dashed == [3.4, 7, 23]
    assert texts(figure).count("21×") == texts(figure).count("4.8×") == 4
    assert {"8192 × 8192 product", "MNIST MLP", "float32", "int8"} < set(texts(figure))


def test_pictures_for_readme_have_colours_of_their_own():
    (text,) = svgs("forest")
    light, dark = (look.alone(text, dark) for dark in (False, True))
    for one in (light, dark):
        assert "var(" not in one and "currentColor" not in one
    assert light != dark and light.count(look.GREY) == dark.count(look.AT_NIGHT[look.GREY]) > 0


def test_figure2a_has_a_tile_a_kernel_with_its_signs():
    frame = FIGURES["figure2a"]()
    (figure,) = drawn("figure2a", frame)
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
    (figure,) = drawn("figure2b", frame)
    for axes in figure.axes:
        rule = axes.get_title(loc="left")
        shown = sorted(y for line in axes.lines for y in line.get_ydata() if line.get_marker() in "os")
        assert shown == sorted(frame.loc[frame["rule"] == rule, "fraction"])
        assert [42.0, 42.0] in [list(line.get_ydata()) for line in axes.lines]
    assert "the paper's 42 %" in texts(figure)


def test_figure3_puts_the_papers_bars_first_and_says_each_ratio():
    frame = FIGURES["figure3"]()
    figures = drawn("figure3", frame)
    assert len(figures) == 2
    for axes in (axes for figure in figures for axes in figure.axes):
        ends = [patch.get_x() + patch.get_width() for patch in axes.patches]
        assert ends == pytest.approx([6.8, 1, 0.29] * 2)
        words = [text.get_text() for text in axes.texts]
        assert words.index("GTX 750") < words.index("A machine of ours, 2 cores")
        labels = [text.get_text().replace("\n", " ") for text in axes.get_yticklabels()]
        assert labels == ["naive", "a library", "xnor", "naive (timed once, scaled)", "a library", "xnor"]
        assert words.count("290 ms · 23×") == 2 and words.count("1 s · 6.8×") == 2 and words.count("6.8 s") == 2


def test_energy_has_a_bar_for_every_net_and_variant():
    frame = FIGURES["energy"]()
    figures = drawn("energy", frame)
    for figure, column in zip(figures, ("compute_uj", "memory_uj", "bytes"), strict=True):
        (axes,) = figure.axes
        ends = [patch.get_x() + patch.get_width() for patch in axes.patches]
        factor = 1 if column == "bytes" else 1e-6
        assert ends == pytest.approx(list(frame[column] * factor))
    assert "170 µJ" in texts(figures[0]) and "100 MB" in texts(figures[2])


@pytest.mark.parametrize("looks", [charts.FAMILIES, charts.VARIANTS])
def test_bars_that_look_alike_in_grey_differ_in_hatch(looks):
    filled = [hatch for colour, hatch in looks.values() if colour != "none"]
    assert len(set(filled)) == len(filled)


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
        assert at_night == look.AT_NIGHT[colour]
        assert contrast(colour, light) >= 3
        assert contrast(at_night, dark) >= 3
