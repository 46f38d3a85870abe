"""The only folder that imports mpi4py: the ranks, the reducers, and how a run fails."""
