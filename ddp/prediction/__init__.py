"""What a training step would take on more ranks, and over another network, before asking for them.

Stage of the flow: beside `tracing`, from whose files it learns what one rank computes; used by
``allgrad predict``. `profile` (what a rank computes, from a trace) and `network` (what a network
and a host can do) are put together in `simulation`; `command` makes tables of it.
"""
