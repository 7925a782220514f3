"""Share terminal output and command-line options among commands."""
