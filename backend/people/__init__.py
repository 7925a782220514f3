"""What several annotators' answers add up to: consensus, agreement, second opinions, likely label
errors.
"""
