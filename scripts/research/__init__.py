"""Commands that simulate, measure and attack; none of them is needed to run the loop."""
