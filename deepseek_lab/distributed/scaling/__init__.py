"""How long a data-parallel step takes on how many ranks: predicted from what one device and one link do.

A step is simulated (:mod:`.step`): gradients become ready along the backward pass in the buckets of
``DistributedDataParallel`` (:mod:`.buckets`), and each goes its way (:mod:`.ways`) over links (:mod:`.network`) beside
what is left of the pass. What goes in is measured on ranks (:mod:`.measure`) or worked out (:mod:`.work`).
"""
