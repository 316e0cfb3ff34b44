"""Keeping house: what may go, and how it goes: old runs, leftovers of killed processes, datasets nobody wants."""
