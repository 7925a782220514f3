"""Communicate with Label Studio; no other package handles its JSON."""
