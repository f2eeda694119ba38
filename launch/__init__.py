"""Starting and supervising ranks: the command ``allgrad``.

One job, top to bottom: ``cli``, ``commands`` and ``run`` read the command line into a frozen
``spec.LaunchSpec``; ``placement`` decides which launcher starts how many ranks where, and one of
``launchers`` turns that into the exact command; ``supervisor`` runs it and listens, at its
``door``, to the ``worker`` of each rank, which runs the script and watches it; ``console`` shows
the ranks' output; ``outcome`` keeps who failed first. May import ``allgrad`` and ``allgrad.ddp``.
"""
