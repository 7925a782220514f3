"""Simulate, measure and attack the loop; running the loop needs none of these commands."""
