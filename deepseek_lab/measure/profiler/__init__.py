"""Where a cell's time and memory go: by line all the time, by module and operator in short recordings.

A thread looks a few hundred times a second where the cell is, which costs nothing that can be felt and knows every
line. What modules and operators do is recorded in windows, at first and then now and again: recording all of a long
training would slow it, and fill the memory that is to be measured.
"""

from deepseek_lab.measure.profiler.session import Session

__all__ = ["Session"]
