"""`python -m facscale.cli` is `facscale`, by whichever Python is at hand."""

from facscale.cli import main

main(prog_name="facscale")
