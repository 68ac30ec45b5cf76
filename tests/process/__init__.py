"""Tests on the real processes of one machine: sparkrayd, zygote, workers."""
