"""Shard formats: each file writes one."""
