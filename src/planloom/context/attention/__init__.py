"""Graph-aligned sparse attention in models that run in this process.

Rule 1: every module here may import torch, and transformers; whoever is not one of them imports this lazily, through
`require` of `models/local`, or in a function.
"""

from __future__ import annotations
