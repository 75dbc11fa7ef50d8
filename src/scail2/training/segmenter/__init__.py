"""The embedded segmenter: its training data, training and evaluation."""
