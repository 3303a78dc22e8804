"""Processes of any kind: snapshots, trees, signals."""
