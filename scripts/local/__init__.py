"""Start, run and stop the whole stack on one machine, without Docker."""
