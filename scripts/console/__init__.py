"""Provide the terminal output and command-line options that several commands share."""
