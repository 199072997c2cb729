"""The page: one file, all text escaped, numbers unchanged, links to the evidence."""

import re
from html.parser import HTMLParser

import pandas as pd
import pytest
from made_frames import FIGURES

from reproduce.report.html import charts, overview, page
from reproduce.report.html.parts import Column, Figure, Section, Table, Verdict

HOSTILE = "<script>alert('1')</script>\"&`x`"
VOID = {"meta", "link", "br"}


class Parsed(HTMLParser):
    """Collects tags with their attributes and the text of open tags; fails if tags do not match."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    def all(self, tag, **wanted):
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in wanted.items())]


ROW, VERDICT, MACHINE = (Column(name, name) for name in ("row", "verdict", "machine"))
COLUMNS = (ROW, Column("error", "ours", 2, "%", "what it says"), VERDICT, MACHINE)


def made_table(name="table", **over):
    lines = {
        "row": ["one", "two", "three"],
        "error": [1.005, float("nan"), 10.0],
        "verdict": ["reproduced", "not run", "not reproduced"],
        "machine": ["here", None, "there"],
        "records": ["results/runs/a b.json; results/kernels/c.json", None, "results/runs/d.json"],
        "again": ["reproduce run one --seeds 2", "reproduce run two", ""],
        "quoted": [False, True, False],
        "dirty": [True, False, False],
        "note": ["no checksum in the record; code revision unknown", "", ""],
    }
    return Table(name, "A caption with `code`.", pd.DataFrame(lines | over), COLUMNS)


def made_page(*parts, **rest):
    return page.page("A title", ["A summary."], [Section("first", "First part", ("Words.",), parts)], **rest)


def drawing(name):
    return getattr(overview if name in ("forest", "times") else charts, name)


def made_figure(name="figure3"):
    return Figure(name, "A figure.", "What it shows", FIGURES[name](), drawing(name))


def rows(text):
    """The cells of every row in the body of the page's tables, without tags."""
    body = re.findall(r"<tbody.*?>(.*?)</tbody>", text, re.S)
    found = [re.findall(r"<t[hd] [^>]*>(.*?)</t[hd]>", row, re.S) for b in body for row in b.split("</tr>")[:-1]]
    return [[re.sub(r"<[^>]+>", "", cell).strip() for cell in row] for row in found]


def test_numbers_have_their_decimals_and_missing_values_are_empty():
    text = made_page(made_table())
    shown = rows(text)
    assert [row[:4] for row in shown] == [
        ["one*", f"{1.005:.2f}", "reproduced", "here"],
        ["two", "", "not run", ""],
        ["three", "10.00", "not reproduced", "there"],
    ]
    values = [a.get("data-value", "") for a in Parsed(text).all("td") if a.get("data-label") == "ours (%)"]
    assert values == ["1.005", "", "10"]  # the sort key has nine digits


def test_values_are_shown_as_people_write_them():
    plain = {1.0: "1", 0.25: "0.25", float("nan"): "", "text": "text"}
    assert [page.shown(value, None) for value in plain] == list(plain.values())
    assert page.shown(True, None) == "yes" and page.shown(None, 2) == ""
    assert page.shown(3, 0) == "3" and page.shown(12.345, 1) == "12.3"
    assert [page.shown(p, 3) for p in (1e-9, 0.0005, 0.0, -1e-9)] == ["< 0.001", "0.001", "0.000", "-0.000"]


TONES = {
    "good": ("reproduced", "better than the paper", "holds here, on a CPU"),
    "bad": ("not reproduced", "does not hold here, on a CPU", "fails, small net"),
    "open": ("inconclusive", "nearly", "cannot be told"),
    "plain": ("not run", "small scale", "quoted"),
}


@pytest.mark.parametrize("tone", TONES)
def test_a_verdict_has_a_colour_beside_its_words(tone):
    text = made_page(made_table(verdict=TONES[tone]))
    assert all(f'<span class="verdict {tone}">{verdict}</span>' in text for verdict in TONES[tone])


def test_rows_link_to_their_records_and_say_how_to_run_them_again():
    parsed = Parsed(made_page(made_table()))
    links = [a["href"] for a in parsed.all("a")]
    assert {"../runs/a%20b.json", "../kernels/c.json", "../runs/d.json", "data/table.csv"} <= set(links)
    popovers = {a["id"] for a in parsed.all("div") if "popover" in a}
    assert len(popovers) == 3
    buttons = [a for a in parsed.all("button") if "popovertargetaction" not in a]
    assert [a["popovertarget"] for a in buttons] == sorted(popovers)
    assert buttons[0]["title"] == "reproduce run one --seeds 2"
    text = "".join(parsed.text)
    assert "reproduce run one --seeds 2" in text and "how to run" in text


def test_another_store_has_links_of_its_own():
    table = made_table(records=["local/runs/a.json"] * 3)
    assert 'href="../runs/a.json"' in made_page(table, home="local/report")
    assert 'href="../../local/runs/a.json"' in made_page(table)


def test_literature_and_dirty_code_are_marked():
    text = made_page(made_table())
    assert text.count('class="quoted"') == 1
    assert "* Of at least one record behind the row: code revision unknown; no checksum in the record.</p>" in text
    assert '<abbr title="no checksum in the record; code revision unknown">*</abbr>' in text
    assert "differs" not in text.split("</style>")[1]
    two = made_page(made_table(dirty=[True, True, False], note=["b; a", "c; b", "d"]))
    assert "behind the row: a; b; c.</p>" in two
    assert "behind the row" not in made_page(made_table(dirty=[False] * 3))


def test_everything_from_outside_is_escaped():
    records = [f"results/runs/{HOSTILE}.json; javascript:alert(1)"] * 3
    table = made_table(**dict.fromkeys(("row", "verdict", "machine", "again"), [HOSTILE] * 3), records=records)
    frame = FIGURES["figure3"]().assign(machine=HOSTILE, candidate=HOSTILE)
    figure = Figure("figure3", HOSTILE, HOSTILE, frame, charts.figure3)
    sections = [Section("first", HOSTILE, (HOSTILE,), (table, figure))]
    verdict = Verdict(*[HOSTILE] * 5, records=f"results/runs/{HOSTILE}.json")
    text = page.page(HOSTILE, [HOSTILE], sections, verdicts=[verdict])
    parsed = Parsed(text)
    assert len(parsed.all("script")) == 1 and text.count("<script") == 1
    said = "".join(parsed.text)
    assert said.count("<script>alert('1')</script>") > 20  # as text, not as a script
    assert not [a for a in parsed.all("a") if ":" in a["href"]]
    assert not [k for _, attributes in parsed.tags for k in attributes if k.startswith("on")]


def test_the_page_needs_no_other_file():
    text = made_page(made_table(), made_figure())
    parsed = Parsed(text)
    assert not [tag for tag, _ in parsed.tags if tag in ("img", "iframe", "object", "embed", "base")]
    assert [a["href"] for a in parsed.all("link")] == ["data:,"]
    assert not [a for a in parsed.all("script") if "src" in a]
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_the_page_has_landmarks_headings_and_names_for_screen_readers():
    parsed = Parsed(made_page(made_table(), made_figure()))
    ids = [a["id"] for _, a in parsed.tags if "id" in a]
    assert len(set(ids)) == len(ids)
    for attributes in (a for _, a in parsed.tags):
        assert attributes.get("aria-labelledby", ids[0]) in ids
        if attributes.get("href", "").startswith("#"):
            assert attributes["href"][1:] in ids
    tags = [tag for tag, _ in parsed.tags]
    assert all(tags.count(tag) == 1 for tag in ("header", "nav", "main", "footer", "h1", "caption", "figcaption"))
    assert [a["lang"] for a in parsed.all("html")] == ["en"]
    assert {a["scope"] for a in parsed.all("th")} == {"row", "col"}
    assert [(a["role"], a["aria-label"]) for a in parsed.all("svg")] == [("img", "What it shows")] * 2


def test_long_tables_are_folded_and_empty_ones_say_so():
    line = {"row": "x", "error": 1.0, "verdict": "not run", "machine": ""}
    assert "<details class" not in made_page(Table("t", "c", pd.DataFrame([line] * page.LONG), COLUMNS[:2]))
    long = pd.DataFrame([line] * (page.LONG + 1))
    assert "<details class" not in made_page(Table("t", "c", long, COLUMNS))  # its verdicts must be visible
    folded = made_page(Table("t", "c", long, COLUMNS[:2]))
    assert '<details class="long">' in folded and f"{page.LONG + 1} rows" in folded
    empty = made_page(Table("t", "c", pd.DataFrame([line]).iloc[:0], COLUMNS))
    assert "No record yet." in empty and "<table" not in empty


def test_a_machine_that_is_the_same_in_all_rows_is_said_once_in_the_caption():
    alike = Parsed(made_page(made_table(machine=["here"] * 3)))
    assert "Machine: here." in "".join(alike.text) and not alike.all("td", **{"data-label": "machine"})
    assert len(Parsed(made_page(made_table())).all("td", **{"data-label": "machine"})) == 3


def test_an_interval_is_one_column():
    frame = pd.DataFrame({"row": ["a", "b"], "low": [0.964, None], "high": [1.206, None]})
    text = made_page(Table("t", "c", frame, (Column("row", "row"), Column("low", "interval", 2, to="high"))))
    assert [row[:2] for row in rows(text)] == [["a", "0.96 to 1.21"], ["b", ""]]


def test_the_method_is_at_the_end_and_verdicts_come_first():
    verdict = Verdict("A claim", "3 times", "4 times", "reproduced", "On one machine.", "results/runs/a.json")
    folded = Verdict("Another", "1", "", "not run", "", fold="imagenet")
    text = made_page(made_table(), verdicts=[verdict, folded])
    places = [text.index(words) for words in ("A claim", "First part</h2>", ">Method</h2>", "Words.")]
    assert places == sorted(places)
    assert '<span class="verdict good">reproduced</span>' in text and 'href="../runs/a.json"' in text
    assert text.index('<details class="fold">') < text.index("Another")


def test_only_beside_pictures_does_the_last_sentence_stand_apart():
    """A comparison has no pictures: its sentence stands where the reader begins."""
    plain = page.page("Title", ["One.", "Two."], [])
    assert "last-said" not in plain.split("</style>")[1] and plain.index("One.") < plain.index("Two.")
    drawn = page.page("Title", ["One.", "Two."], [], pictures=[made_figure()])
    assert drawn.index("<figure") < drawn.index("<p>Two.</p>") and drawn.count("<p>Two.</p>") == 1
