"""What every room stands on: settings, errors, logs, progress, and the types of arrays and of
labeling.
"""
