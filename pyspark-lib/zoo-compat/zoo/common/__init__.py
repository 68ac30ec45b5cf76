"""See `zoo.common.nncontext`."""
