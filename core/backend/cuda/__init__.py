"""The CUDA backend: CuPy's arrays, cuDNN, cuBLAS and kernels of our own.

Importing this package costs nothing; its modules need CuPy. `availability` says whether a GPU can
be used and, if not, why.
"""
