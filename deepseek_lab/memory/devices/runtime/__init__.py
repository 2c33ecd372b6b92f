"""What a plan runs: plain PyTorch, one idea a file. A plan prints these files as they are here, so that what is
simulated, what is tested and what a user takes away are one text. Nothing here imports this package.
"""
