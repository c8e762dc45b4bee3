"""Layers that methods share: encoders, heads, momentum copies, queues."""

from facscale.nn.classifier import LinearProbe, masked_bce
from facscale.nn.encoder import Encoder
from facscale.nn.heads import projection_head
from facscale.nn.momentum import Momentum
from facscale.nn.queue import Queue
from facscale.nn.resnet import ResNet

__all__ = ["Encoder", "LinearProbe", "Momentum", "Queue", "ResNet", "masked_bce", "projection_head"]
