"""The command line: `wsol train`, `evaluate`, `localize` and all that `wsol --help` lists."""

from wsol_ext.cli.main import main

__all__ = ["main"]
