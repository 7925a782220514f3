"""Measure models: evaluation, calibration, intervals, the gate, forecasts. Plain numbers only."""
