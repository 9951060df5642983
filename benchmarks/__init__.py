"""Speed measurements: the library beside a PyTorch implementation of the same papers, written for this purpose."""

import experiments  # noqa: F401  for its large pages
