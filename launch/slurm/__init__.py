"""Batch jobs of Slurm: writing and submitting them, looking at them, and going on in the same one.

Slurm does the rest: ``launchers/srun.py`` starts the ranks inside. May import ``allgrad.launch``.
"""
