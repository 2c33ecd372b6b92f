"""Regions, magics, completion and the command line; the only room that imports IPython."""
