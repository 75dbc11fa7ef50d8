"""``python -m scail2``: the command line, also where the `scail2` command is not on the path."""

import runpy

runpy.run_module("scail2.cli.app", run_name="__main__")
