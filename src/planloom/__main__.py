"""`python -m planloom` is the program `planloom`."""

from planloom.cli.main import main

if __name__ == "__main__":
    main(prog_name="planloom")
