"""Training regions: forward and backward pass of what a cell's own loop trains, run the fastest way that agrees.

The loop stays the user's. A lane whose results are differentiated records a few of its steps, :mod:`problem`; the
builder process repeats them on copies to see which ways to run them agree, :mod:`bench`; those are raced in the
loop's own steps, :mod:`lane`, or on the copies where the loop has ended.
"""
