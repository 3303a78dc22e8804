"""What leaves the program: the writers of stdout and stderr, text for people, the run log."""
