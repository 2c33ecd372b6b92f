"""What batch sizes and learning rates a training bears, measured on copies in another process."""
