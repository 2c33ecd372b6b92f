"""From objects to graphs whose nodes know their cell line."""
