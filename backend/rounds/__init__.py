"""Run the loop: observe, decide, train a round, re-order the open tasks, ask the next batch."""
