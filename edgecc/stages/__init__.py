"""The stages of `edgecc.compile`: a job, its plan, its files, what they are worth, what is left on disk."""
