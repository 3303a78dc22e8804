"""Fuzzing: README.md tells how."""
