"""`python -m facscale.cli` is `facscale`, by whichever Python is at hand."""

from facscale.cli import main

if __name__ == "__main__":
    main(prog_name="facscale")
