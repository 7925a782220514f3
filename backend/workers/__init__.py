"""Start our processes: the jobs that RQ calls by name, the clock, and each command."""
