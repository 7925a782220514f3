"""Everything kept on disk: model versions, scores, embeddings, pre-trained weights, project.db."""
