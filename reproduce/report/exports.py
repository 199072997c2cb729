"""Table 1 as files for others: CSV, Markdown, README's block, LaTeX."""

from __future__ import annotations

import pandas as pd

from reproduce.report.sections.table1 import COLUMNS, DATASETS, SCALES, SHORT_NOTE, SMALL_NOTE, TITLES

BEGIN, END = "<!-- found: begin (made by `reproduce publish`) -->", "<!-- found: end -->"
PROTOCOL = (
    "Test error (%) at the best validation epoch, the last of equal ones; “last epoch” is that of the last one."
)


def number(value: object, digits: int = 2) -> str:
    """A number with so many decimals, nothing for none."""
    return "" if value is None or pd.isna(value) else f"{value:.{digits}f}"  # type: ignore[call-overload]


def csv(frame: pd.DataFrame) -> str:
    """table1.csv: COLUMNS, errors in percent with four decimals."""
    text: str = frame[COLUMNS].to_csv(index=False, float_format="%.4f", lineterminator="\n")
    return text


def markdown(frame: pd.DataFrame) -> str:
    """Table 1 for people: the paper's scale first, short schedules and small scale in tables of their own."""
    out = [PROTOCOL]
    for scale in SCALES:
        part = frame[frame["scale"] == scale]
        if not len(part):
            continue
        out += ["", f"### {TITLES[scale]}", ""]
        out += {"paper": [], "short": [SHORT_NOTE, ""], "small": [SMALL_NOTE, ""]}[scale]
        head = ["row", "data set", "paper", "ours", "95 % prediction", "last epoch", "seeds"]
        head += ["verdict" if scale == "paper" else "seconds", "machine", "made by"]
        rows = [_cells(line) for _, line in part.iterrows()]
        if scale == "small":  # no column of the paper's: these are other nets
            head[2] = "images: train / valid / test"
            rows = [[*row[:2], images, *row[3:]] for row, images in zip(rows, part["images"], strict=True)]
        out += [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    remarks = sorted({n for note in frame.loc[frame["dirty"], "note"] for n in note.split("; ")})
    if remarks:
        out += ["", f"\\* of at least one run: {in_markdown('; '.join(remarks))}."]
    return "\n".join(out) + "\n"


def _cells(line: pd.Series) -> list[str]:
    interval = f"{number(line['low'])} to {number(line['high'])}" if not pd.isna(line["low"]) else ""
    within = "" if pd.isna(line["plus_minus"]) else f" ± {number(line['plus_minus'])}"
    return [
        in_markdown(line["row"]),
        in_markdown(line["dataset"]),
        number(line["paper"]) + within,
        number(line["mean"]) + ("\\*" if line["dirty"] else ""),
        interval,
        number(line["last"]),
        "" if line["quoted"] else str(line["seeds"]),
        in_markdown(line["verdict"]) if line["scale"] == "paper" else number(line["seconds"], 0),
        *(in_markdown(line[key]) for key in ("machine", "code")),
    ]


def latex(frame: pd.DataFrame) -> str:
    """The paper's scale as a booktabs `tabular`: printed, and ours as mean ± half the prediction interval."""
    part, sets = frame[frame["scale"] == "paper"], DATASETS[:3]
    out = [
        "% Needs the package booktabs. Test error in percent; ours: mean, plus or minus half of the 95 %",
        "% prediction interval, and in parentheses the number of seeds; a dash: not printed, or not run.",
        f"\\begin{{tabular}}{{l{'rr' * len(sets)}}}",
        "\\toprule",
        "".join(f" & \\multicolumn{{2}}{{c}}{{{in_latex(s)}}}" for s in sets) + " \\\\",
        "".join(f"\\cmidrule(lr){{{2 * i + 2}-{2 * i + 3}}}" for i in range(len(sets))),
        "Method" + " & paper & ours" * len(sets) + " \\\\",
    ]
    for group in dict.fromkeys(part["group"]):
        out += ["\\midrule", f"\\multicolumn{{{2 * len(sets) + 1}}}{{l}}{{\\emph{{{in_latex(group)}}}}} \\\\"]
        for row in dict.fromkeys(part.loc[part["group"] == group, "row"]):
            found = part[part["row"] == row]
            cells = [x for s in sets for x in _latex_cells(found[found["dataset"] == s])]
            out.append(" & ".join([in_latex(row), *cells]) + " \\\\")
    return "\n".join([*out, "\\bottomrule", "\\end{tabular}"]) + "\n"


def _latex_cells(lines: pd.DataFrame) -> list[str]:
    """Printed and ours; several lines (image orders, codes) one after another, each with what made it."""
    paper, ours, several = [], [], lines["mean"].notna().sum() > 1
    for _, line in lines.iterrows():
        within = "" if pd.isna(line["plus_minus"]) else f" \\pm {number(line['plus_minus'])}"
        if not pd.isna(line["paper"]):
            paper.append(f"${number(line['paper'])}{within}$")
        if not pd.isna(line["mean"]):
            half = "" if pd.isna(line["low"]) else f" \\pm {number((line['high'] - line['low']) / 2)}"
            made = f" [{in_latex(line['code'])}]" if several else ""
            ours.append(f"${number(line['mean'])}{half}$ ({line['seeds']}){'*' if line['dirty'] else ''}{made}")
    return ["; ".join(dict.fromkeys(paper)) or "--", "; ".join(ours) or "--"]


LATEX = (
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {c: f"{{{c}}}" for c in "[]*"}  # after a line's end these would be its options
    | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    | {"<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}"}
)
MARKDOWN = {c: f"\\{c}" for c in "\\`*_[]|$~#"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def in_latex(text: str) -> str:
    """Text with the characters that mean something to LaTeX as themselves."""
    return "".join(LATEX.get(c, c) for c in text)


def in_markdown(text: str) -> str:
    """Text with the characters that mean something to Markdown, in a table's cell too, as themselves."""
    return "".join(MARKDOWN.get(c, c) for c in text)


def into_readme(text: str, block: str) -> str:
    """README's text with `block` between its markers. ValueError without markers."""
    if BEGIN not in text or END not in text:
        raise ValueError("README.md has no markers for what was found")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n\n{block}\n{END}{rest.split(END, 1)[1]}"
