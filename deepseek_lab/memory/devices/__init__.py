"""How a model trains on a machine that is described and not there: which plan fits, and how large a model could be.

A block and the ends of the model are measured on fake tensors (:mod:`.footprint`), the course of FSDP2 puts them
together in closed form (:mod:`.arithmetic`), and PyTorch's own tracker checks it (:mod:`.simulate`).
"""

from deepseek_lab.memory.devices.machine import DEVICES, Machine
from deepseek_lab.memory.devices.report import plan_devices
from deepseek_lab.memory.devices.way import PLAIN, Way

__all__ = ["DEVICES", "PLAIN", "Machine", "Way", "plan_devices"]
