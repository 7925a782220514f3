"""The whole stack on one machine, without Docker: how its programs start, run and stop."""
