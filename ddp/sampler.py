"""Samplers and streams that know their rank from the process group; they live in core.

May import: `allgrad.utils.data`.
"""

from allgrad.utils.data import DistributedIterableDataset as DistributedIterableDataset
from allgrad.utils.data import DistributedSampler as DistributedSampler
from allgrad.utils.data import DistributedSamplerWrapper as DistributedSamplerWrapper
from allgrad.utils.data import DistributedWeightedSampler as DistributedWeightedSampler
