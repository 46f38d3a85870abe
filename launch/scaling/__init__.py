"""The scaling study: run, explain, predict, report."""
