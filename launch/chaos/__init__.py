"""``allgrad chaos``: the user's own script under faults, and whether its result is the same.

``command`` reads the options; ``campaign`` runs the script undisturbed once, then again under
``allgrad run --max-restarts`` while ``job`` looks for the processes to kill and ``damage`` spoils
checkpoint files between two runs; ``check`` compares what was loaded and what came out. May import
`allgrad` and `allgrad.ddp`.
"""
