"""The command line: ``minidl train``, ``evaluate``, ``predict``, ``explain``, ``data``, ``gradcheck``, ``bench``, ``doctor``.

Each command is a file with ``add_arguments(parser)`` and ``run(options) -> exit code`` over the library.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

COMMANDS = {
    "train": "train a classifier of images and draw what it learnt",
    "evaluate": "test a saved model",
    "predict": "say what a saved model sees in image files",
    "explain": "write a page that shows every number of a model's run on an image",
    "data": "list, download and verify data sets",
    "gradcheck": "check every operation's gradient against finite differences",
    "bench": "measure speed and memory against other frameworks on this machine",
    "doctor": "show versions, threads, libraries, cache and GPU",
}


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that names the defaults, where there is one to name."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


def _version() -> str:
    try:
        return version("minidl")
    except PackageNotFoundError:  # a checkout that is not installed
        return "checkout"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; bad options and missing files end with one line on stderr and exit code 2."""
    parser = _Parser(prog="minidl", description="minidl: deep learning from scratch, in Python that can be read and is fast.")
    parser.add_argument("--version", action="version", version=f"minidl {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    for name, text in COMMANDS.items():
        module = importlib.import_module(f"minidl.cli.{name}")
        command = commands.add_parser(name, help=text, description=module.__doc__, formatter_class=_Help)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    for command in commands.choices.values():
        command.add_argument("--traceback", action="store_true", help="show where an error came from")
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        commands.choices[options.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        return options.run(options)
    except BrokenPipeError:  # whoever read the output has seen enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, ValueError, TypeError, RuntimeError, ArithmeticError, ImportError) as error:
        if options.traceback:
            raise
        print(f"minidl {options.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"minidl {options.command}: interrupted", file=sys.stderr)
        return 130
