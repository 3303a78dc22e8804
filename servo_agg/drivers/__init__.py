"""Running drivers: start, read, time out, stop."""
