"""The names of ``torch.distributed.algorithms.model_averaging``."""
