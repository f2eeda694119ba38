"""Timelines of all ranks: recorded, merged with their clocks aligned, analysed and drawn.

Stage of the flow: beside training. `core/timeline.py` collects what one rank does; here, top to
bottom: `record` (writes it down while training runs), `clock` (how far hosts' clocks are apart),
`files` (what lies on disk), `model` (the whole as values), `chrome` (JSON for Perfetto), `analysis`
(what a step waits for), `picture` (one step as PNG), `command` (``allgrad trace``). May import:
`communicators.base`, `allgrad`; matplotlib in `picture` alone.
"""
