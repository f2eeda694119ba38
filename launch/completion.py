"""Completion for shells, written from the parsers: what ``--help`` knows, the Tab key knows.

Sources: bash(1) "Programmable Completion"; zshcompsys(1) for ``_arguments``; fish's manual of
``complete``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SHELLS = ("bash", "zsh", "fish")
_FILES = ("FILE", "DIR", "PATH", "PROGRAM", "PNG")


@dataclass(frozen=True)
class Option:
    """An option of a command.

    Attributes:
        names: its spellings, "-n" and "--nproc".
        help: its first words.
        takes: whether a value follows.
        choices: the values, where they are known.
        files: whether the value is a file or folder.
    """

    names: tuple[str, ...]
    help: str
    takes: bool
    choices: tuple[str, ...]
    files: bool


@dataclass(frozen=True)
class Command:
    """A command: its name, what it does, its options, the values of its first argument."""

    name: str
    help: str
    options: tuple[Option, ...]
    arguments: tuple[str, ...]


def commands_of(parser: argparse.ArgumentParser) -> tuple[Command, ...]:
    """Return what can be completed: each command of the command line."""
    return tuple(_commands(parser))


def _commands(parser: argparse.ArgumentParser) -> Iterator[Command]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                options = tuple(_option(a) for a in command._actions if a.option_strings)
                first = [a for a in command._actions if not a.option_strings and a.choices]
                words = tuple(map(str, first[0].choices or ())) if first else ()
                yield Command(name, helps.get(name, ""), options, words)


def _option(action: argparse.Action) -> Option:
    values = tuple(map(str, action.choices or ()))
    files = action.type is Path or str(action.metavar) in _FILES
    text = "" if action.help in (None, argparse.SUPPRESS) else str(action.help)
    first = re.split(r"[;:(]", text.replace("%%", "%"), maxsplit=1)[0].strip()
    return Option(tuple(action.option_strings), first, action.nargs != 0, values, files)


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return the completion of a shell, ready to be sourced.

    Args:
        shell: one of `SHELLS`.
        parser: of the whole command line.
    """
    return _WRITERS[shell](commands_of(parser), parser.prog)


# -- bash ------------------------------------------------------------------------------------------

_BASH = """\
# Completion of {prog} for bash: eval "$({prog} completion bash)"
_{prog}() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}}
    local command=${{COMP_WORDS[1]}} options='' valued='' values='' files='' words='' i
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        mapfile -t COMPREPLY < <(compgen -W "{names} --help --version" -- "$current")
        return
    fi
    case $command in
{cases}
    *) return ;;
    esac
    # Behind the script, everything is the script's: files.
    for ((i = 2; i < COMP_CWORD; i++)); do
        case ${{COMP_WORDS[i]}} in
        -*) case " $valued " in *" ${{COMP_WORDS[i]}} "*) ((i++)) ;; esac ;;
        *) mapfile -t COMPREPLY < <(compgen -f -- "$current"); return ;;
        esac
    done
    case $previous in
{choices}
    esac
    if [ -n "$values" ]; then
        mapfile -t COMPREPLY < <(compgen -W "$values" -- "$current")
    elif [ -n "$files" ]; then
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    elif case " $valued " in *" $previous "*) true ;; *) false ;; esac; then
        return
    elif [ "${{current:0:1}}" = - ]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$current")
    elif [ -n "$words" ]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    else
        mapfile -t COMPREPLY < <(compgen -f -X '!*.py' -- "$current"; compgen -d -- "$current")
    fi
}}
complete -o filenames -F _{prog} {prog}
"""


def _bash(commands: tuple[Command, ...], prog: str) -> str:
    cases, choices = [], []
    for command in commands:
        options = " ".join(name for option in command.options for name in option.names)
        valued = " ".join(n for option in command.options if option.takes for n in option.names)
        words = " ".join(command.arguments)
        cases.append(
            f"    {command.name}) options='{options}' valued='{valued}' words='{words}' ;;"
        )
        for option in command.options:
            if option.choices or option.files:
                what = f"values='{' '.join(option.choices)}'" if option.choices else "files=1"
                test = f'[ "$command" = {command.name} ] && {what} ;;'
                choices += [f"    {name}) {test}" for name in option.names]
    return _BASH.format(
        prog=prog,
        names=" ".join(command.name for command in commands),
        cases="\n".join(cases),
        choices="\n".join(_merged_cases(choices)),
    )


def _merged_cases(lines: list[str]) -> list[str]:
    """Bash takes the first pattern that fits: an option of two commands needs one entry."""
    bodies: dict[str, list[str]] = {}
    for line in lines:
        pattern, _, body = line.strip().partition(") ")
        bodies.setdefault(pattern, []).append(body.removesuffix(" ;;"))
    return [f"    {pattern}) {'; '.join(parts)} ;;" for pattern, parts in bodies.items()]


# -- zsh -------------------------------------------------------------------------------------------


def _zsh(commands: tuple[Command, ...], prog: str) -> str:
    lines = [f"#compdef {prog}", f'# Completion of {prog} for zsh: eval "$({prog} completion zsh)"']
    lines += [f"_{prog}() {{", "  local -a commands", "  commands=("]
    lines += [f"    {_quoted(f'{c.name}:{c.help}')}" for c in commands]
    lines += ["  )", "  if (( CURRENT == 2 )); then"]
    lines += ["    _describe command commands", "    return", "  fi"]
    lines += [
        "  local command=$words[2]",
        "  shift words",
        "  (( CURRENT-- ))",
        "  case $command in",
    ]
    for command in commands:
        lines.append(f"  {command.name}) _arguments \\")
        lines += [f"    {_zsh_option(option)} \\" for option in command.options]
        first = f"({' '.join(command.arguments)})" if command.arguments else "_files"
        lines.append(f"    {_quoted(f'1:argument:{first}')} '*::arguments:_files' ;;")
    return "\n".join([*lines, "  esac", "}", f"compdef _{prog} {prog}", ""])


def _zsh_option(option: Option) -> str:
    told = re.sub(r"[][:]", " ", option.help)
    value = ""
    if option.takes:
        action = "_files" if option.files else f"({' '.join(option.choices)})"
        value = f":value:{action if option.files or option.choices else ' '}"
    together = f"({' '.join(option.names)})" if len(option.names) > 1 else ""
    return " ".join(_quoted(f"{together}{name}[{told}]{value}") for name in option.names)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


# -- fish ------------------------------------------------------------------------------------------


def _fish(commands: tuple[Command, ...], prog: str) -> str:
    lines = [f"# Completion of {prog} for fish: {prog} completion fish | source"]
    lines += [
        f"complete -c {prog} -f -n __fish_use_subcommand -a {command.name} "
        f"-d {_fish_quoted(command.help)}"
        for command in commands
    ]
    for command in commands:
        lines += _fish_command(command, prog)
    return "\n".join([*lines, ""])


def _fish_command(command: Command, prog: str) -> Iterator[str]:
    seen = f"-n '__fish_seen_subcommand_from {command.name}'"
    if command.arguments:
        yield f"complete -c {prog} -f {seen} -a '{' '.join(command.arguments)}'"
    for option in command.options:
        names = " ".join(
            f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in option.names
        )
        value = ""
        if option.takes:
            value = " -r -F" if option.files else " -x"
        if option.choices:
            value += f" -a '{' '.join(option.choices)}'"
        yield f"complete -c {prog} {seen} {names}{value} -d {_fish_quoted(option.help)}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_WRITERS: dict[str, Callable[[tuple[Command, ...], str], str]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
