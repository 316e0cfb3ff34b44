"""Batches in, a trained AlexNet out."""
