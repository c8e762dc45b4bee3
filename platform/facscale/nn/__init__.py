"""Layers that methods share: encoders, heads, momentum copies, queues."""

from facscale.nn.classifier import LinearProbe, masked_bce
from facscale.nn.contrast import info_nce, nt_xent, soft_neighbours
from facscale.nn.encoder import Encoder
from facscale.nn.heads import normalised_head, projection_head
from facscale.nn.momentum import Momentum
from facscale.nn.queue import Queue
from facscale.nn.resnet import ResNet

__all__ = [
    "Encoder", "LinearProbe", "Momentum", "Queue", "ResNet", "info_nce", "masked_bce", "normalised_head", "nt_xent",
    "projection_head", "soft_neighbours",
]  # fmt: skip
