"""See `zoo.ray.util.raycontext`."""
