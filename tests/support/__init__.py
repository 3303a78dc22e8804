"""Helpers of the tests: servo directories, the agent, processes, badly behaved drivers."""
