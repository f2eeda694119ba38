"""The names of ``torch.distributed.algorithms``."""
