"""The ResNet-18: its layout, training, inference, and a new last layer on fixed embeddings."""
