"""Measure models from plain numbers: evaluation, calibration, intervals, the gate and forecasts."""
