"""Builds the network that a configuration asks for."""

from __future__ import annotations

from rise_perception.network.config import NetworkConfig
from rise_perception.network.mask_rcnn import MaskRcnnNetwork
from rise_perception.network.rise import RiseNetwork

#: A network by what ``NetworkConfig.architecture`` calls it. Each is a module with a ``config`` whose forward
#: keeps :mod:`rise_perception.network.outputs`; its backbone is its ``backbone``.
Network = RiseNetwork | MaskRcnnNetwork
_BUILDERS: dict[str, type[Network]] = {"rise": RiseNetwork, "mask_rcnn": MaskRcnnNetwork}


def build_network(config: NetworkConfig) -> Network:
    """A network at its random start (or with timm's weights in the backbone, where ``pretrained``).

    Raises:
        ConfigError: timm has no such backbone, or the backbone does not fit.
    """
    return _BUILDERS[config.architecture](config)
