"""Graph-aligned sparse attention in models that run in this process.

Rule 1: a module here may import torch and transformers at its top; whoever else needs one of them imports it in a
function, so that everything else works without.
"""

from __future__ import annotations
