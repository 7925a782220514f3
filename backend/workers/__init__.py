"""What RQ calls by name, the clock, and how each process starts."""
