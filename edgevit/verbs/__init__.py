"""The verbs: each connects the rooms, ten lines at a time, and does nothing else."""
