"""Speed measurements: the library beside a PyTorch implementation of the same papers, written for this purpose."""
