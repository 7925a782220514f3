"""Train a ResNet-18, predict with it, and fit a new last layer to its embeddings."""
