"""Provide the steps that set up a project in Label Studio."""
