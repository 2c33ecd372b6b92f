"""From where on a number is a finding, and who says so.

AutoTrainer: Zhang et al., ICSE 2021 (its ``gradient_issue``); Debugger: the built-in rules of Amazon SageMaker
Debugger; CS231n: Karpathy's notes on babysitting the learning process; Glorot: Glorot and Bengio, AISTATS 2010. Where
a source's own number would alarm in sound trainings, two things must come together, as is said at each.
"""

from __future__ import annotations

PERSISTS = 3
"""Samples in a row that must show it: one batch is chance, and weights that begin at zero have odd first steps."""

VANISHED, FAINT = 1e-3, 1e-4
"""AutoTrainer: the norm of a layer's gradient beside that of the last layer, and by itself."""

EXPLODED = 70.0
"""AutoTrainer: the norm of a layer's gradient beside that of the last layer. Sound networks with normalisation reach
it where weights are small, so the gradient must also be larger than the weights themselves."""
LARGER_THAN_WEIGHTS = 1.0
EXPLODED_ALONE = 1e3
"""A gradient so many times as large as its weights, whatever the other layers have."""
JUMPED = 100.0
"""The norm of the whole gradient beside the median of earlier samples."""

DEAD = 0.5
"""Debugger, DeadRelu: the share of a layer's units that are inactive."""
MIN_SEEN = 256
"""Values that a unit must have been seen at before it is called dead."""

TANH_END, SIGMOID_END, SOFTMAX_END = 0.99, 0.01, 0.999
"""Derivatives of 0.02 and less: Glorot, figure 2 and 3, shows layers there that stop to learn."""
SATURATED, SATURATED_ROWS = 0.5, 0.9
"""Share of a layer's values, as many as of dead units, and of a softmax's rows: attention may be sure of itself."""

LARGE_UPDATE, SMALL_UPDATE = 1e-1, 1e-5
"""CS231n: about 1e-3 is right. These are two orders of magnitude away, and the loss must not be falling either."""
STOPPED = 1e-3
"""A layer's update in times of the median layer's, although it has a gradient."""

SPIKE_DEVIATIONS, SPIKE_TIMES = 10.0, 1.5
"""Robust z-score (1.4826 times the median absolute deviation), and times the median."""
SPIKE_OF_FIRST, SPIKE_LASTS = 1.0, (0.25, 3)
"""By how much of the very first loss it must rise: by all of it, which is worse than untrained, or by a quarter for
three steps. One sample in a small batch that the model is sure of and wrong about is no spike."""
SPIKE_WINDOW, SPIKE_MIN = 50, 15

NOT_FALLING_STEPS = 100
NOT_FALLING = 0.98
"""The median of the last steps beside that of the first. Debugger, LossNotDecreasing, asks after 10 steps for any
decrease; a loop at its plateau, which is no fault, is told by how far below chance its loss is."""
CHANCE = 0.9
"""A loss is at chance above this share of what a constant prediction costs."""
RISEN = 1.5
"""The last losses beside the first ones."""

UNSCALED_RMS = 20.0
"""Inputs of unit scale are what initialisations assume (LeCun et al., Efficient BackProp, 1998, 4.3); pixels of
0 to 255 have an RMS of 50 to 150, token ids and one-hot vectors are not looked at."""
MIN_LABELS, MIN_BINARY_LABELS = 64, 512
"""Labels that must be seen before all of them being the same is no chance."""
