"""The loop: observe, decide, train a round, ask the next batch, re-order the open tasks."""
