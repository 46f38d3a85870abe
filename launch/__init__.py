"""Starts the ranks of `ddp.train`: `python -m launch run -n 4 -- <ddp.train arguments>`.

Nothing here is imported by a rank, and nothing here imports `ddp` or mpi4py: the launcher stays light, and
what it needs to know about the MPI library it asks of another process (`launch.discovery`).
"""
