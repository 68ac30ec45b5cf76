"""The module of old Ray versions (before 1.0) that programs took `get_node_ip_address` from."""

from sparkray.util import get_node_ip_address

__all__ = ["get_node_ip_address"]
