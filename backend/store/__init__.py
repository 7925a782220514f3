"""Keep model versions, their outputs, pre-trained weights and project.db on disk."""
