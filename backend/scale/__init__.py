"""Run the heavy steps of a round on a Ray cluster; no other package imports Ray."""
