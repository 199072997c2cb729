"""Trained nets in bits and integer thresholds (`net`), how they are made (`freezing`), and their file (`file`)."""

from reproduce.packed.blocks import PackedError
from reproduce.packed.freezing import freeze, freeze_net
from reproduce.packed.net import PackedNet
from reproduce.packed.pictures import read_images

__all__ = ["PackedError", "PackedNet", "freeze", "freeze_net", "read_images"]
