"""RayContext, where the first versions of RayOnSpark have it."""

from sparkray_zoo_compat.ray_context import RayContext

__all__ = ["RayContext"]
