"""The command line, `facscale`: the group of all commands, and the sections in which its help lists them.

Each section has a module that defines its commands as `NAME_command`. What these need beyond click is imported when a
command runs, so that the help and the shell's completion take a fraction of a second.
"""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from facscale import __version__
from facscale.cli import clusters, data, jobs, models, results
from facscale.errors import UserError

# What is left at the end is not searched for cycles, which takes 0.4 s of a process with torch.
atexit.register(gc.freeze)

SECTIONS: Mapping[str, Sequence[click.Command]] = {  # in each, the most used commands come first
    "Jobs": (
        jobs.run_command,
        jobs.check_command,
        jobs.rehearse_command,
        jobs.submit_command,
        jobs.status_command,
        jobs.logs_command,
        jobs.list_command,
        jobs.cancel_command,
    ),
    "Data and methods": (data.data_command, data.methods_command),
    "Results": (
        results.compare_command,
        results.verify_command,
        results.published_command,
        results.retrieve_command,
        results.sync_command,
    ),
    "Models": (models.predict_command, models.export_command, models.serve_command),
    "Clusters and setup": (
        clusters.doctor_command,
        clusters.demo_command,
        clusters.init_command,
        clusters.completion_command,
    ),
}


class SectionedGroup(click.Group):
    """A group that lists its commands by section, and prints a UserError as one message with exit status 2."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """Names in the order in which the commands were added."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write each section as a list of its commands with the first line of their help."""
        width = max(map(len, self.commands))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                limit = formatter.width - formatter.current_indent - width
                rows = [(str(command.name).ljust(width), command.get_short_help_str(limit)) for command in commands]
                formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Exit status 2 means that the input has to change."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(click.style("error: ", fg="red") + str(error), err=True)
            sys.exit(2)


@click.group(
    cls=SectionedGroup,
    commands={str(command.name): command for section in SECTIONS.values() for command in section},
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="facscale")
def main() -> None:
    """Train, sweep and compare facial action unit representations on a cluster.

    A job is one YAML file. These commands run the same job:

    \b
        ./jobs/clp.yaml
        facscale run jobs/clp.yaml
        ray job submit -- jobs/clp.yaml

    Start with `facscale demo`, or copy all jobs and pipelines to a folder with `facscale init faces`; there, `facscale
    check jobs/clp.yaml` prints the whole plan of a job without starting it.
    """
