"""Building blocks that methods share: encoders, heads, losses, momentum encoders, key queues."""

from facscale.nn.encoder import Encoder
from facscale.nn.heads import LinearProbe, normalised_head, projection_head
from facscale.nn.losses import info_nce, masked_bce, masked_mse, nt_xent, soft_neighbours
from facscale.nn.momentum import MomentumEncoder
from facscale.nn.queue import Queue
from facscale.nn.resnet import ResNet

__all__ = [
    "Encoder",
    "LinearProbe",
    "MomentumEncoder",
    "Queue",
    "ResNet",
    "info_nce",
    "masked_bce",
    "masked_mse",
    "normalised_head",
    "nt_xent",
    "projection_head",
    "soft_neighbours",
]
