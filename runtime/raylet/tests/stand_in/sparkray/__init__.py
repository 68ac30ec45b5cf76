"""A stand-in for the package that workers run."""
