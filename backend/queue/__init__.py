"""Jobs, hints and signs of life in Redis; the only room that enqueues."""
