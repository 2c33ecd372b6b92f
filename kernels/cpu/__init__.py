"""CPU kernels: C++ behind a plain C interface, called through ctypes."""
