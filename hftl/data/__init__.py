"""From a source to batches: splits with one label map, shared preprocessing, train-only augmentation, a deterministic loader."""
