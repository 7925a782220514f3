"""Keep jobs, hints and signs of life in Redis; no other room enqueues."""
