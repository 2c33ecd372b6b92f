"""Training in less memory: plans that are predicted before anything big runs, and kept to."""
