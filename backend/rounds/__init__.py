"""Run the loop: observe, decide, train a round, reorder the open tasks, query the next batch."""
