"""See `bigdl.dllib.nncontext`."""
