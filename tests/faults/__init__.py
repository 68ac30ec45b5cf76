"""Tests that stop and kill processes, and fill the disk."""
