"""Tests with a real Spark on this machine: local and local-cluster."""
