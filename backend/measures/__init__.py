"""How good a model is and will be: calibration, the gate, intervals, the forecast. Plain numbers in
and out.
"""
