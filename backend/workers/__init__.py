"""Run the long-running processes: the clock, the web servers, and the workers with their jobs."""
