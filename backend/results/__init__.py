"""Export labels and models, and import labels that were made elsewhere."""
