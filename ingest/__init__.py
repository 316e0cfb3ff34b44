"""Raw ImageNet in, sealed datasets of 256x256 shards out. The ground floor: imports nothing of ours above it."""
