"""The machinery: kernels with gradient rules of their own, their forms for each platform, and what XLA is told.

Nothing here knows a search space. docs/kernels.md says of each piece what it buys, and the command that shows it.
"""
