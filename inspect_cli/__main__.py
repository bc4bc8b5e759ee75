"""``python -m inspect_cli``."""

from inspect_cli.cli import main

main()
