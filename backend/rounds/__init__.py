"""Run the loop: observe, decide, train a round, reorder the open tasks, ask the next batch."""
