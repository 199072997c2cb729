"""The `reproduce` command: all commands, and how errors end it."""

from __future__ import annotations

import sys

import typer

from kernels.environment import VariableError
from reproduce import files, spec
from reproduce.cli import gpu
from reproduce.cli.bench import bench
from reproduce.cli.check import check
from reproduce.cli.clean import clean
from reproduce.cli.data import fetch
from reproduce.cli.export import export
from reproduce.cli.freeze import freeze, predict
from reproduce.cli.listing import list_cells
from reproduce.cli.publish import publish
from reproduce.cli.report import make_report
from reproduce.cli.run import run
from reproduce.cli.submit import submit
from reproduce.cli.tune import tune
from reproduce.datasets.data import DataError
from reproduce.terminal import any_text

app = typer.Typer(
    help="Binarized Neural Networks (arXiv 1602.02830), reproduced: train the paper's cells, compare, judge.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("list")(list_cells)
app.command()(run)
app.command("data")(fetch)
app.command("report")(make_report)
app.command()(publish)
app.command()(check)
app.command()(freeze)
app.command()(predict)
app.command()(export)
app.command()(bench)
app.command()(clean)
app.command()(submit)
app.command()(tune)
app.add_typer(gpu.app, name="gpu", hidden=True)


def main() -> None:
    """Run the command. Unusable input ends it with one line and exit code 2, failing storage with 1."""
    any_text()
    try:
        app()
    except (spec.SpecError, VariableError, files.Foreign) as error:
        print(f"reproduce: {error}", file=sys.stderr)
        sys.exit(2)
    except DataError as error:
        print(f"reproduce: {error}", file=sys.stderr)
        sys.exit(3)
    except MemoryError as error:
        reason = (str(error).splitlines() or ["not enough memory"])[0]
        print(f"reproduce: {reason}; with more memory, the same command resumes", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or error
        print(f"reproduce: {what}; once that is fixed, the same command resumes", file=sys.stderr)
        sys.exit(1)
