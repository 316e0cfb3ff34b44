"""A sealed dataset in, exact batches out; `augment.loader` is the door."""
