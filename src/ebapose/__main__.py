"""`python -m ebapose` is `ebapose`."""

from ebapose.cli import command

command()
