"""Tests of the wheels that `make wheels` has built: `make test-wheels`."""
