"""Choose which images to query next: acquisition scores, query strategies and diversity."""
