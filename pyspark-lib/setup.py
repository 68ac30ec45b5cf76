"""The wheel holds native code built by cargo beforehand, so it is for one Python version and one platform."""

from setuptools import Distribution, setup


class NativeDistribution(Distribution):
    """A distribution whose wheel is tagged for this interpreter and platform, although setuptools compiles nothing."""

    def has_ext_modules(self) -> bool:
        """Yes: `make wheel` has put them in place."""
        return True


setup(distclass=NativeDistribution)
