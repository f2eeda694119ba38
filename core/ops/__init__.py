"""Operations on arrays, one family per file. Imports: backend, errors, NumPy."""
