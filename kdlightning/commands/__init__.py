"""The program: one command, one file."""
