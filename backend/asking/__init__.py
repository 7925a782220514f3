"""Which images to ask next: acquisition scores, query strategies, diversity. Arrays in, image ids
out.
"""
