"""Kernels of NVIDIA GPUs: CuPy, cuDNN, cuBLAS and kernels of our own behind the backend protocol.

Importing this package loads none of these libraries; its modules do, when a device is asked for.
"""
