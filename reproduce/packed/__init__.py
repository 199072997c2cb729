"""Packed nets: a trained net in bits and integer thresholds (`net`), and the file it is kept in (`file`)."""

from reproduce.packed.net import PackedError, PackedNet, freeze, freeze_net
from reproduce.packed.pictures import read_images

__all__ = ["PackedError", "PackedNet", "freeze", "freeze_net", "read_images"]
