"""`python -m facscale.cli` runs `facscale` with this Python."""

from facscale.cli import main

if __name__ == "__main__":
    main(prog_name="facscale")
