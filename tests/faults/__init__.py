"""Fault injection: nothing is left behind."""
