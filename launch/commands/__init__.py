"""The commands of the command line, one per file: options here, the work elsewhere.

``add(commands)`` of each file adds its parser; ``execute(options)``, which returns the exit code,
imports what the command needs, so that ``allgrad --help`` is quick.
"""
