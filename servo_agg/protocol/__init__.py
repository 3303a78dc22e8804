"""Messages, settings, progress and outcomes as values. Pure: no process, file, clock or thread."""
