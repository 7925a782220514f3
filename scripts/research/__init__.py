"""Simulate, measure and attack the loop; none of these commands is needed to run it."""
