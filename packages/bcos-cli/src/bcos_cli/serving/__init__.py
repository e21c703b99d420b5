"""A local page that explains images dropped on it: what ``bcos serve`` does."""

from bcos_cli.serving.address import Address
from bcos_cli.serving.networks import load_networks
from bcos_cli.serving.server import serve
from bcos_cli.serving.uploads import Limits

__all__ = ["Address", "Limits", "load_networks", "serve"]
