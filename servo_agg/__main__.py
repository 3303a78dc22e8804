"""`python -m servo_agg`: the same program as `./adjust` (SPEC 14.2)."""

from servo_agg.cli import main

main()
