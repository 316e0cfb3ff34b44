"""Source layouts: each file knows one way in which ImageNet lies on disk."""
