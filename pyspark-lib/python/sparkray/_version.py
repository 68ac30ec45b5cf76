"""The version of the package; the Rust workspace has the same."""

__version__ = "0.1.0"
