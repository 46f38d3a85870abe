"""Whole training steps of one kind, each run in processes of its own and timed from outside."""
