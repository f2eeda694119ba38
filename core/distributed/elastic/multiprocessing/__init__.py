"""The names of ``torch.distributed.elastic.multiprocessing``."""
