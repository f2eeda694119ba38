"""``allgrad completion``: its options."""

from __future__ import annotations

import argparse
import sys
from typing import Any

SHELLS = ("bash", "zsh", "fish")
_EXAMPLES = """\
to have it in every new shell:
  bash   echo 'eval "$(allgrad completion bash)"' >> ~/.bashrc
  zsh    echo 'eval "$(allgrad completion zsh)"' >> ~/.zshrc          # behind compinit
  fish   allgrad completion fish > ~/.config/fish/completions/allgrad.fish
"""


def add(commands: Any) -> None:
    """Add the command to the command line."""
    completion = commands.add_parser(
        "completion",
        help="print what lets the Tab key complete commands and options",
        description="Print a script that lets the Tab key complete commands, options and values.",
        usage="allgrad completion bash|zsh|fish",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    completion.add_argument("shell", choices=SHELLS, help="which shell")
    completion.set_defaults(execute=_execute)


def _execute(options: argparse.Namespace) -> int:
    from allgrad.launch.cli import build_parser  # noqa: PLC0415 - it imports this file
    from allgrad.launch.completion import script  # noqa: PLC0415 - `allgrad --help` is quick

    sys.stdout.write(script(options.shell, build_parser()))
    return 0
