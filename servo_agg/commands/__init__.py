"""What the program does, one module per command."""
