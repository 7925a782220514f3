"""Keep jobs, hints and heartbeats in Redis; no other package enqueues jobs."""
