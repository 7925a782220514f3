"""Choose which images to ask next: acquisition scores, query strategies and diversity."""
