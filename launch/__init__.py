"""Starting and supervising ranks: the command ``allgrad``.

One job, top to bottom: ``cli``, ``commands`` and ``run`` read the command line into a frozen
``spec.LaunchSpec``; one of ``launchers`` turns it into the exact command; ``supervisor`` runs that and listens to the
``worker`` of each rank, which runs the script and watches it; ``console`` shows the ranks' output;
``outcome`` keeps who failed first. May import ``allgrad`` and ``allgrad.ddp``.
"""
