"""The program of one rank: ``python -m deepseek_lab.distributed.worker CONNECTION RANK IDENTITY``."""
