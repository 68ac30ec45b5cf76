"""RayContext, where later versions of Analytics Zoo have it."""

from sparkray_zoo_compat.ray_context import RayContext

__all__ = ["RayContext"]
