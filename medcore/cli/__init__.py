"""``medcore …``: the command line. Exit codes: 0 all good, 1 something failed or was found, 2 wrong usage.

Commands live one file each and are imported only when called, so that a wrong option answers at once.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from typing import Any

import click

from medcore import __version__
from medcore.data.parallel import thread_share
from medcore.errors import MedcoreError

CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
WAY_OUT = (
    "What was complete before is as it was. MEDCORE_DATA moves the cache of prepared sets, --out or MEDCORE_REPORTS "
    "the reports, TMPDIR temporary files."
)
# command -> (module, help shown in the overview)
COMMANDS = {
    "reports": ("reports", "Run notebooks and write HTML reports."),
    "train": ("train", "Train a classifier, segmenter, autoencoder or VAE."),
    "evaluate": ("evaluate", "Evaluate a checkpoint on a labelled set."),
    "predict": ("predict", "Predict on new images with a checkpoint."),
    "data": ("data", "List, describe, fetch and prepare data sets."),
    "audit": ("audit", "Look for leakage between the sides of a split."),
    "sweep": ("sweep", "Search over notebook parameters on validation data."),
    "compare": ("compare", "Compare finished runs."),
    "export": ("export", "Write a model as ONNX or torch.export."),
    "plan": ("plan", "How many patients a validation needs."),
    "new": ("study", "Start a study of your own."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported on first use; a ``MedcoreError`` becomes one clear line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All command names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the module of a command."""
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"medcore.cli.{COMMANDS[name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Suggest the nearest command for an unknown one."""
        if args and args[0] not in COMMANDS:
            from medcore.reporting.parameters import did_you_mean

            raise click.UsageError(f"no command {args[0]!r}{did_you_mean(args[0], list(COMMANDS))}")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="medcore")
def cli() -> None:
    """Rigorous medical-imaging studies. For research and teaching; not for clinical use."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point: errors of the user are one line on stderr, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without our signs shows their numbers
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("OMP_NUM_THREADS", str(thread_share()))  # OpenMP, which reads this once, knows of no quota
    try:
        status = cli.main(args=arguments, prog_name="medcore", standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except MedcoreError as error:
        click.secho(f"medcore: {error}", fg="red", err=True)
        sys.exit(getattr(error, "exit_code", 1))
    except OSError as error:
        if error.errno not in CANNOT_WRITE:
            raise
        click.secho(f"medcore: {error.filename or ''}: {error.strerror}. {WAY_OUT}", fg="red", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
