"""Gradient accumulation: an update of the weights per so many samples, in micro-batches that the machine likes best.

The user's loop stays as it is. Between two updates its optimisers find no gradients, its schedulers stand still and its
clipping clips nothing; the update itself sees the gradient of the whole batch.
"""
