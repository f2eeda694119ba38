"""What all commands share: the parser with its error messages, and types of options."""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
from typing import Any, NoReturn


class Help(argparse.RawDescriptionHelpFormatter):
    """Wraps what is one paragraph, keeps what has lines of its own; options get some room."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, 100) - 2
        super().__init__(prog, max_help_position=26, width=width)

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):  # argparse forgets how far they stand in
            longest = max(map(len, action.choices), default=0)
            self._action_max_length = max(self._action_max_length, longest + 4)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose errors are one line and suggest what was meant."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"formatter_class": Help})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown options here, where the options of this command are known."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self._refuse("option", unknown[0].partition("=")[0], list(self._option_string_actions))
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """Print the message, with suggestions for an unknown command, and exit with code 2."""
        match = re.match(r"argument command: invalid choice: '(.*?)'", message)
        if match is not None:
            self._refuse("command", match[1], [n for a in self._actions for n in a.choices or ()])
        self.exit(2, f"{self.prog}: {message}\nTry: {self.prog} --help\n")

    def _refuse(self, kind: str, given: str, known: list[str]) -> NoReturn:
        close = difflib.get_close_matches(given, known, n=2)
        meant = f"; did you mean {' or '.join(close)}?" if close else ""
        listed = " ".join(sorted(known))
        self.exit(2, f"{self.prog}: unknown {kind} {given}{meant}\nKnown: {listed}\n")


def at_least_one(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text) if re.fullmatch(r"-?\d+", text) else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return value


def at_least_zero(text: str) -> int:
    """A whole number of at least 0."""
    if not re.fullmatch(r"\d+", text):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text}")
    return int(text)


def seconds(text: str) -> float:
    """A number of seconds, at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number of seconds >= 0, got {text}")
    return value


def assignment(text: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text}")
    return name, value


def add_target(command: argparse.ArgumentParser) -> None:
    """Add the script and its arguments, which end the options of the command."""
    command.add_argument("target", metavar="script", help="script, or module with -m")
    rest = command.add_argument("args", nargs=argparse.REMAINDER, help="arguments of the script")
    rest.required = False  # so that only the script is asked for where both are missing
