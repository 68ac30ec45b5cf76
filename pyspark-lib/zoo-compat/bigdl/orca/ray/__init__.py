"""RayContext and OrcaRayContext."""

from sparkray_zoo_compat.ray_context import OrcaRayContext, RayContext

__all__ = ["OrcaRayContext", "RayContext"]
