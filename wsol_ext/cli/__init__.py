"""The command line: `wsol train`, `evaluate`, `localize`, `convert`, `demo` and `info`."""

from wsol_ext.cli.main import main

__all__ = ["main"]
