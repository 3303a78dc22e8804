"""Tests of the whole program, one module per chapter of SPEC or subject."""
